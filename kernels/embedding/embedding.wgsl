// out[i] = table[ids[i]]: rows of a table.
struct Params { count: u32, columns: u32, rows: u32 }

@group(0) @binding(0) var<storage, read> table: array<f32>;
@group(0) @binding(1) var<storage, read> ids: array<i32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  if (i >= params.count * params.columns) {
    return;
  }
  let id = min(u32(ids[i / params.columns]), params.rows - 1u);
  out[i] = table[id * params.columns + i % params.columns];
}
