// out = exp(x − max) / Σ exp(x − max) for each row of x [rows, columns].
struct Params { rows: u32, columns: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) index: u32) {
  let t = row_lane(index);
  let row = (w.y * n.x + w.x) * ROWS + t.y;
  let columns = select(0u, params.columns, row < params.rows);
  let base = row * params.columns;
  var largest = -3.4e38;
  for (var k = t.x; k < columns; k += LANES) {
    largest = max(largest, x[base + k]);
  }
  largest = row_max(largest, t.x, t.y);
  var total = 0.0;
  for (var k = t.x; k < columns; k += LANES) {
    total += exp(x[base + k] - largest);
  }
  total = row_sum(total, t.x, t.y);
  for (var k = t.x; k < columns; k += LANES) {
    out[base + k] = exp(x[base + k] - largest) / total;
  }
}
