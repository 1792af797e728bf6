// The gradient of y = softmax(x): d x = y · (d y − Σ y · d y), row by row.
struct Params { rows: u32, columns: u32 }

@group(0) @binding(0) var<storage, read> y: array<f32>;
@group(0) @binding(1) var<storage, read> d_y: array<f32>;
@group(0) @binding(2) var<storage, read_write> d_x: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) index: u32) {
  let t = row_lane(index);
  let row = (w.y * n.x + w.x) * ROWS + t.y;
  let columns = select(0u, params.columns, row < params.rows);
  let base = row * params.columns;
  var dot = 0.0;
  for (var k = t.x; k < columns; k += LANES) {
    dot += y[base + k] * d_y[base + k];
  }
  dot = row_sum(dot, t.x, t.y);
  for (var k = t.x; k < columns; k += LANES) {
    d_x[base + k] = y[base + k] * (d_y[base + k] - dot);
  }
}
