// out = the weights; an invocation decodes four. `weights_at` of the type, and BLOCK_WEIGHTS and BLOCK_BYTES are prepended.
struct Params { size: u32 }

@group(0) @binding(0) var<storage, read> packed: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> params: Params;

fn packed_word(i: u32) -> u32 { return packed[i]; }

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let at = (w.y * n.x + w.x) * 64u + t;
  if (4u * at >= params.size) {
    return;
  }
  let first = 4u * at;
  out[at] = weights_at(first / BLOCK_WEIGHTS * BLOCK_BYTES, first % BLOCK_WEIGHTS);
}
