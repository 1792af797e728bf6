// RMSNorm (Zhang and Sennrich, arXiv 1910.07467): out = x · r · gain, r = 1 / √(mean(x²) + ε), row by row. r is kept for the
// backward pass. x and gain are inputs, V a group of elements: both are prepended by kernels/quads.ts.
struct Params { rows: u32, groups: u32, columns: f32, epsilon: f32 }

@group(0) @binding(2) var<storage, read_write> out: array<V>;
@group(0) @binding(3) var<storage, read_write> inverse: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) index: u32) {
  let t = row_lane(index);
  let row = (w.y * n.x + w.x) * ROWS + t.y;
  let groups = select(0u, params.groups, row < params.rows);
  let base = row * params.groups;
  var squares = V(0.0);
  for (var k = t.x; k < groups; k += LANES) {
    let own = x_at(base + k);
    squares += own * own;
  }
  let sum = row_sum(total(squares), t.x, t.y);
  let r = 1.0 / sqrt(sum / params.columns + params.epsilon);
  for (var k = t.x; k < groups; k += LANES) {
    out[base + k] = x_at(base + k) * r * gain_at(k);
  }
  if (t.x == 0u && row < params.rows) {
    inverse[row] = r;
  }
}
