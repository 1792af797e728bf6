// out[row, i] = labels[row, i + 1], and −100 at the end of each row.
struct Params { size: u32, columns: u32 }

@group(0) @binding(0) var<storage, read> labels: array<i32>;
@group(0) @binding(1) var<storage, read_write> out: array<i32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  if (i >= params.size) { return; }
  var label = -100;
  if ((i + 1u) % params.columns != 0u) { label = labels[i + 1u]; }
  out[i] = label;
}
