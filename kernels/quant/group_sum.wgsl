// The sum of each group along the rows of x [rows, columns], whose last group may be shorter. A workgroup for each; the order of
// the sum is fixed.
struct Params {
  groups: u32, // of all rows
  per_row: u32,
  columns: u32,
  group_size: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> sums: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

var<workgroup> parts: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = w.y * n.x + w.x;
  let column = i % params.per_row * params.group_size;
  let first = i / params.per_row * params.columns + column;
  let count = select(0u, min(params.group_size, params.columns - column), i < params.groups);
  var sum = 0.0;
  for (var j = t; j < count; j += 64u) {
    sum += x[first + j];
  }
  parts[t] = sum;
  for (var half = 32u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (t < half) {
      parts[t] += parts[t + half];
    }
  }
  if (t == 0u && i < params.groups) {
    sums[i] = parts[0];
  }
}
