// out = exp(x − max) / Σ exp(x − max) for each row of x [rows, columns], with the row in registers. V is a group of elements.
struct Params { rows: u32, groups: u32 }

@group(0) @binding(0) var<storage, read> x: array<V>;
@group(0) @binding(1) var<storage, read_write> out: array<V>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) index: u32) {
  let t = row_lane(index);
  let row = (w.y * n.x + w.x) * ROWS + t.y;
  let base = min(row, params.rows - 1u) * params.groups;
  // Loads beyond the row repeat its last group, which changes no maximum.
  #{let k# = t.x + #u * LANES;
  let x# = x[base + min(k#, params.groups - 1u)];}#
  var top = x0;
  #{top = max(top, x#);}#
  let all = row_max(largest(top), t.x, t.y);
  var mass = V(0.0);
  #{let e# = exp(x# - all);
  mass += select(V(0.0), e#, k# < params.groups);}#
  let scale = 1.0 / row_sum(total(mass), t.x, t.y);
  if (row >= params.rows) {
    return;
  }
  #{if (k# < params.groups) { out[base + k#] = e# * scale; }}#
}
