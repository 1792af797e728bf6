// The gradients of RMSNorm for x, as in rms_norm_backward.wgsl, and for gain, with the rows in registers. A workgroup walks
// several rows; a lane has the same columns in all of them, sums their share of gain's gradient, Σ d out · x · r, and leaves it in
// `pieces` [workgroups, columns]. V is a group of elements.
struct Params { rows: u32, groups: u32, columns: f32, add: u32, with_gain: u32 }

@group(0) @binding(0) var<storage, read> x: array<V>;
@group(0) @binding(1) var<storage, read> gain: array<V>;
@group(0) @binding(2) var<storage, read> d_out: array<V>;
@group(0) @binding(3) var<storage, read> earlier: array<V>;
@group(0) @binding(4) var<storage, read> inverse: array<f32>;
@group(0) @binding(5) var<storage, read_write> d_x: array<V>;
@group(0) @binding(6) var<storage, read_write> pieces: array<V>;
@group(0) @binding(7) var<uniform> params: Params;

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) index: u32) {
  let t = row_lane(index);
  #{let k# = t.x + #u * LANES;
  let is_in# = k# < params.groups;
  let gain# = gain[min(k#, params.groups - 1u)];
  var piece# = V(0.0);}#
  let stride = n.x * n.y * ROWS;
  for (var first = (w.y * n.x + w.x) * ROWS; first < params.rows; first += stride) {
    let row = first + t.y;
    let base = min(row, params.rows - 1u) * params.groups;
    let r = inverse[min(row, params.rows - 1u)];
    #{let x# = x[base + min(k#, params.groups - 1u)];
    let g# = d_out[base + min(k#, params.groups - 1u)];}#
    var products = V(0.0);
    #{products += select(V(0.0), g# * gain# * x#, is_in#);}#
    let dot = row_sum(total(products), t.x, t.y);
    let pull = r * r * dot / params.columns;
    if (row < params.rows) {
      #{if (is_in#) {
        var own# = r * (g# * gain# - x# * pull);
        if (params.add == 1u) { own# += earlier[base + k#]; }
        d_x[base + k#] = own#;
        piece# += g# * x# * r;
      }}#
    }
  }
  if (params.with_gain == 0u) {
    return;
  }
  let piece = w.y * n.x + w.x;
  #{let all# = slot_sum(piece#, t);
  if (is_in# && t.y == 0u) { pieces[piece * params.groups + k#] = all#; }}#
}
