// out = the scales of blocks in 32 bits. `absmax_at` is prepended.
struct Params { blocks: u32 }

@group(0) @binding(0) var<storage, read_write> out: array<f32>;
@group(0) @binding(1) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let block = (w.y * n.x + w.x) * 64u + t;
  if (block < params.blocks) {
    out[block] = absmax_at(block);
  }
}
