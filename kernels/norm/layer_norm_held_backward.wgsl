// The gradients of LayerNorm for x, as in layer_norm_backward.wgsl, and for gain and bias, with the rows in registers. A workgroup
// walks several rows; a lane has the same columns in all of them, and sums their share of gain's gradient, Σ d out · x̂, and of
// bias's, Σ d out, which it leaves in pieces [workgroups, columns]. While a row is worked on, the next one is on its way. V is a
// group of elements.
struct Params { rows: u32, groups: u32, columns: f32, add: u32, with_gain: u32 }

@group(0) @binding(0) var<storage, read> x: array<V>;
@group(0) @binding(1) var<storage, read> gain: array<V>;
@group(0) @binding(2) var<storage, read> d_out: array<V>;
@group(0) @binding(3) var<storage, read> earlier: array<V>;
@group(0) @binding(4) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read_write> d_x: array<V>;
@group(0) @binding(6) var<storage, read_write> gain_pieces: array<V>;
@group(0) @binding(7) var<storage, read_write> bias_pieces: array<V>;
@group(0) @binding(8) var<uniform> params: Params;

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) index: u32) {
  let t = row_lane(index);
  let begin = (w.y * n.x + w.x) * ROWS;
  let begin_row = min(begin + t.y, params.rows - 1u);
  var next_stat = stats[begin_row];
  #{let k# = t.x + #u * LANES;
  let is_in# = k# < params.groups;
  let at# = min(k#, params.groups - 1u);
  let gain# = gain[at#];
  var gain_piece# = V(0.0);
  var bias_piece# = V(0.0);
  var next_x# = x[begin_row * params.groups + at#];
  var next_g# = d_out[begin_row * params.groups + at#];}#
  let stride = n.x * n.y * ROWS;
  var turn = 0u;
  for (var first = begin; first < params.rows; first += stride) {
    let row = first + t.y;
    let base = row * params.groups;
    let stat = next_stat;
    #{let n# = (next_x# - stat.x) * stat.y;
    let g# = next_g#;}#
    if (first + stride < params.rows) {
      let next = min(row + stride, params.rows - 1u);
      next_stat = stats[next];
      #{next_x# = x[next * params.groups + at#];
      next_g# = d_out[next * params.groups + at#];}#
    }
    var sum = V(0.0);
    var products = V(0.0);
    #{let own_g# = select(V(0.0), g# * gain#, is_in#);
    sum += own_g#;
    products += own_g# * n#;}#
    let means = walk_sums(vec2<f32>(total(sum), total(products)), t, turn) / params.columns;
    turn = 1u - turn;
    if (row < params.rows) {
      #{if (is_in#) {
        var own# = stat.y * (g# * gain# - means.x - n# * means.y);
        if (params.add == 1u) { own# += earlier[base + k#]; }
        d_x[base + k#] = own#;
        gain_piece# += g# * n#;
        bias_piece# += g#;
      }}#
    }
  }
  if (params.with_gain == 0u) {
    return;
  }
  let piece = w.y * n.x + w.x;
  #{let all_gain# = slot_sum(gain_piece#, t);
  let all_bias# = slot_sum(bias_piece#, t);
  if (is_in# && t.y == 0u) {
    gain_pieces[piece * params.groups + k#] = all_gain#;
    bias_pieces[piece * params.groups + k#] = all_bias#;
  }}#
}
