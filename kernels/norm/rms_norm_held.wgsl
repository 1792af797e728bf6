// RMSNorm as in rms_norm.wgsl, with the row in registers. V is a group of elements.
struct Params { rows: u32, groups: u32, columns: f32, epsilon: f32 }

@group(0) @binding(0) var<storage, read> x: array<V>;
@group(0) @binding(1) var<storage, read> gain: array<V>;
@group(0) @binding(2) var<storage, read_write> out: array<V>;
@group(0) @binding(3) var<storage, read_write> inverse: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) index: u32) {
  let block = w.y * n.x + w.x;
  ROW
  if (row >= params.rows) {
    return;
  }
  #{if (k# < params.groups) { out[base + k#] = x# * r * gain[k#]; }}#
  if (t.x == 0u) {
    inverse[row] = r;
  }
}
