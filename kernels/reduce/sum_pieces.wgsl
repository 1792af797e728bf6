// The sum, or with `squares` the sum of squares, of each piece of a line of elements: out [pieces]; with `root` its square root.
// One workgroup has a piece, of a multiple of four elements but for the last.
struct Params { size: u32, piece: u32, squares: u32, root: u32 }

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

// What four elements add to the sum.
fn part(v: vec4<f32>) -> vec4<f32> {
  return select(v, v * v, params.squares == 1u);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first = w.x * params.piece / 4u;
  let last = min(first + params.piece / 4u, params.size / 4u);
  var sums = vec4<f32>();
  var k = first + lane;
  for (; k + (COUNT - 1u) * LANES < last; k += COUNT * LANES) {
    #{let x# = x[k + #u * LANES];}#
    #{sums += part(x#);}#
  }
  for (; k < last; k += LANES) {
    sums += part(x[k]);
  }
  // What the last four do not fill.
  let rest = params.size % 4u;
  if (rest > 0u && k == params.size / 4u && k < first + params.piece / 4u) {
    sums += select(vec4<f32>(), part(x[k]), vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(rest));
  }
  let all = row_sum(total(sums), lane, 0u);
  if (lane == 0u) {
    out[w.x] = select(all, sqrt(all), params.root == 1u);
  }
}
