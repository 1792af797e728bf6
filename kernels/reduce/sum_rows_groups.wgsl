// Sums rows of x [rows, groups]: out [rows]. The lanes of a row walk it side by side, several loads at a time. V is a group of
// elements.
struct Params { rows: u32, groups: u32 }

@group(0) @binding(0) var<storage, read> x: array<V>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) index: u32) {
  let t = row_lane(index);
  let row = (w.y * n.x + w.x) * ROWS + t.y;
  let base = row * params.groups;
  let groups = select(0u, params.groups, row < params.rows);
  var sums = V(0.0);
  var k = t.x;
  for (; k + (COUNT - 1u) * LANES < groups; k += COUNT * LANES) {
    #{let x# = x[base + k + #u * LANES];}#
    #{sums += x#;}#
  }
  for (; k < groups; k += LANES) {
    sums += x[base + k];
  }
  let all = row_sum(total(sums), t.x, t.y);
  if (t.x == 0u && row < params.rows) {
    out[row] = all;
  }
}
