// The gradient of LayerNorm for x. With g = d out · gain:
//   out = x̂ · gain + bias, x̂ = (x − μ) · r   gives   d x = r · (g − mean(g) − x̂ · mean(g · x̂))
// and with `add` what x has from its other uses is added.
struct Params { rows: u32, columns: u32, add: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> gain: array<f32>;
@group(0) @binding(2) var<storage, read> stats: array<f32>;
@group(0) @binding(3) var<storage, read> d_out: array<f32>;
@group(0) @binding(4) var<storage, read> earlier: array<f32>;
@group(0) @binding(5) var<storage, read_write> d_x: array<f32>;
@group(0) @binding(6) var<uniform> params: Params;

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) index: u32) {
  let t = row_lane(index);
  let row = (w.y * n.x + w.x) * ROWS + t.y;
  let columns = select(0u, params.columns, row < params.rows);
  let base = row * params.columns;
  let at = 2u * min(row, params.rows - 1u);
  let mean = stats[at];
  let r = stats[at + 1u];
  var total = 0.0;
  var products = 0.0;
  for (var k = t.x; k < columns; k += LANES) {
    let g = d_out[base + k] * gain[k];
    total += g;
    products += g * (x[base + k] - mean) * r;
  }
  let shift = row_sum(total, t.x, t.y) / f32(params.columns);
  let pull = row_sum(products, t.x, t.y) / f32(params.columns);
  for (var k = t.x; k < columns; k += LANES) {
    var own = r * (d_out[base + k] * gain[k] - shift - (x[base + k] - mean) * r * pull);
    if (params.add == 1u) {
      own += earlier[base + k];
    }
    d_x[base + k] = own;
  }
}
