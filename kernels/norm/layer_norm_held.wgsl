// LayerNorm as in layer_norm.wgsl, with the row in registers. V is a group of elements.
struct Params { rows: u32, groups: u32, columns: f32, epsilon: f32 }

@group(0) @binding(0) var<storage, read> x: array<V>;
@group(0) @binding(1) var<storage, read> gain: array<V>;
@group(0) @binding(2) var<storage, read> bias: array<V>;
@group(0) @binding(3) var<storage, read_write> out: array<V>;
@group(0) @binding(4) var<storage, read_write> stats: array<vec2<f32>>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) index: u32) {
  let t = row_lane(index);
  let row = (w.y * n.x + w.x) * ROWS + t.y;
  let base = min(row, params.rows - 1u) * params.groups;
  #{let k# = t.x + #u * LANES;
  let x# = x[base + min(k#, params.groups - 1u)];}#
  var sum = V(0.0);
  #{sum += select(V(0.0), x#, k# < params.groups);}#
  let mean = row_sum(total(sum), t.x, t.y) / params.columns;
  // From the registers once more: the mean of squares less the square of the mean would cancel where the mean is large.
  var squares = V(0.0);
  #{squares += select(V(0.0), (x# - mean) * (x# - mean), k# < params.groups);}#
  let variance = row_sum(total(squares), t.x, t.y) / params.columns;
  let r = 1.0 / sqrt(variance + params.epsilon);
  if (row >= params.rows) {
    return;
  }
  #{if (k# < params.groups) { out[base + k#] = (x# - mean) * r * gain[k#] + bias[k#]; }}#
  if (t.x == 0u) {
    stats[row] = vec2<f32>(mean, r);
  }
}
