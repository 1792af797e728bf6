// The gradient of y = softmax(x): d x = y · (d y − Σ y · d y), row by row, with the rows in registers. V is a group of elements.
struct Params { rows: u32, groups: u32 }

@group(0) @binding(0) var<storage, read> y: array<V>;
@group(0) @binding(1) var<storage, read> d_y: array<V>;
@group(0) @binding(2) var<storage, read_write> d_x: array<V>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) index: u32) {
  let t = row_lane(index);
  let row = (w.y * n.x + w.x) * ROWS + t.y;
  let base = min(row, params.rows - 1u) * params.groups;
  #{let k# = t.x + #u * LANES;
  let y# = y[base + min(k#, params.groups - 1u)];
  let g# = d_y[base + min(k#, params.groups - 1u)];}#
  var products = V(0.0);
  #{products += select(V(0.0), y# * g#, k# < params.groups);}#
  let dot = row_sum(total(products), t.x, t.y);
  if (row >= params.rows) {
    return;
  }
  #{if (k# < params.groups) { d_x[base + k#] = y# * (g# - dot); }}#
}
