// The gradient of RMSNorm for x. With g = d out · gain and n columns:
//   out = x · r · gain   gives   d x = r · (g − x · r² · Σ(g · x) / n)
struct Params { rows: u32, columns: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> gain: array<f32>;
@group(0) @binding(2) var<storage, read> inverse: array<f32>;
@group(0) @binding(3) var<storage, read> d_out: array<f32>;
@group(0) @binding(4) var<storage, read_write> d_x: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(LANES, ROWS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_id) t: vec3<u32>) {
  let row = (w.y * n.x + w.x) * ROWS + t.y;
  let columns = select(0u, params.columns, row < params.rows);
  let base = row * params.columns;
  var dot = 0.0;
  for (var k = t.x; k < columns; k += LANES) {
    dot += d_out[base + k] * gain[k] * x[base + k];
  }
  dot = row_sum(dot, t.x, t.y);
  if (row >= params.rows) {
    return;
  }
  let r = inverse[row];
  let pull = r * r * dot / f32(params.columns);
  for (var k = t.x; k < columns; k += LANES) {
    d_x[base + k] = r * (d_out[base + k] * gain[k] - x[base + k] * pull);
  }
}
