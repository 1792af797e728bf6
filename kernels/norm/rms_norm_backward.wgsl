// The gradient of RMSNorm for x. With g = d out · gain and n columns:
//   out = x · r · gain   gives   d x = r · (g − x · r² · Σ(g · x) / n)
// and what x has from its other uses is added. x, gain, d_out and earlier are inputs, V a group of elements (kernels/quads.ts).
struct Params { rows: u32, groups: u32, columns: f32, add: u32 }

@group(0) @binding(4) var<storage, read> inverse: array<f32>;
@group(0) @binding(5) var<storage, read_write> d_x: array<V>;
@group(0) @binding(6) var<uniform> params: Params;

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) index: u32) {
  let t = row_lane(index);
  let row = (w.y * n.x + w.x) * ROWS + t.y;
  let groups = select(0u, params.groups, row < params.rows);
  let base = row * params.groups;
  var products = V(0.0);
  for (var k = t.x; k < groups; k += LANES) {
    products += d_out_at(base + k) * gain_at(k) * x_at(base + k);
  }
  let dot = row_sum(total(products), t.x, t.y);
  if (row >= params.rows) {
    return;
  }
  let r = inverse[row];
  let pull = r * r * dot / params.columns;
  for (var k = t.x; k < groups; k += LANES) {
    var own = r * (d_out_at(base + k) * gain_at(k) - x_at(base + k) * pull);
    if (params.add == 1u) {
      own += earlier_at(base + k);
    }
    d_x[base + k] = own;
  }
}
