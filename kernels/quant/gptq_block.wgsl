// Some columns of a weight matrix, one after another: each is quantized, and what that loses is made up for by those after it.
// The matrix lies transposed, [columns, rows], so that an invocation, which takes a row, sits beside its neighbours.
const MOST = 32u;

struct Params {
  rows: u32,
  count: u32, // columns here, at most MOST
  first: u32, // the first of them among all columns
  columns: u32,
  group_size: u32,
  least: f32,
  most: f32,
}

@group(0) @binding(0) var<storage, read> w: array<f32>; // [what is left of the columns, rows]
@group(0) @binding(1) var<storage, read> u: array<f32>; // [columns, columns], upper triangular
@group(0) @binding(2) var<storage, read> scales: array<vec2<f32>>; // [groups, rows]: scale and zero
@group(0) @binding(3) var<storage, read_write> codes: array<u32>; // [columns, rows]
@group(0) @binding(4) var<storage, read_write> errors: array<f32>; // [count, rows]
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let row = group.x * 64u + t;
  if (row >= params.rows) {
    return;
  }
  var own: array<f32, MOST>;
  for (var j = 0u; j < params.count; j++) {
    own[j] = w[j * params.rows + row];
  }
  for (var i = 0u; i < params.count; i++) {
    let column = params.first + i;
    let scale = scales[column / params.group_size * params.rows + row];
    let code = clamp(round(own[i] / scale.x) + scale.y, params.least, params.most);
    let lost = own[i] - (code - scale.y) * scale.x;
    let at = column * params.columns + params.first;
    let error = lost / u[at + i];
    codes[column * params.rows + row] = u32(code - params.least);
    errors[i * params.rows + row] = error;
    for (var j = i + 1u; j < params.count; j++) {
      own[j] -= error * u[at + j];
    }
  }
}
