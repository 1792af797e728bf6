// Sums rows of x [rows, length]: out [rows]. The lanes of a row walk it side by side.
struct Params { rows: u32, length: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) index: u32) {
  let t = row_lane(index);
  let row = (w.y * n.x + w.x) * ROWS + t.y;
  var total = 0.0;
  if (row < params.rows) {
    for (var k = t.x; k < params.length; k += LANES) {
      total += x[row * params.length + k];
    }
  }
  total = row_sum(total, t.x, t.y);
  if (t.x == 0u && row < params.rows) {
    out[row] = total;
  }
}
