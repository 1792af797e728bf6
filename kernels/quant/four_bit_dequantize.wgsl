// out = value of code · absmax of block. An invocation decodes a word of eight codes. `absmax_at` and `code_at` are prepended.
struct Params { size: u32, block_size: u32 }

@group(0) @binding(0) var<storage, read> packed: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  prepare_code(t);
  let word = (w.y * n.x + w.x) * 64u + t;
  let first = 8u * word;
  if (first >= params.size) {
    return;
  }
  let bits = packed[word];
  let scale = absmax_at(first / params.block_size);
  out[2u * word] = scale * vec4<f32>(
    code_at(bits, 4u), code_at(bits, 0u),
    code_at(bits, 12u), code_at(bits, 8u));
  if (first + 4u < params.size) {
    out[2u * word + 1u] = scale * vec4<f32>(
      code_at(bits, 20u), code_at(bits, 16u),
      code_at(bits, 28u), code_at(bits, 24u));
  }
}
