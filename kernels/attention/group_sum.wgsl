// The gradients of one key head, from those of the query heads that share it: x [tokens, kv_heads, group, D] to
// [tokens, kv_heads, D], in vectors of four.
struct Params { count: u32, d4: u32, group: u32 }

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  if (i >= params.count) {
    return;
  }
  let first = i / params.d4 * params.group * params.d4 + i % params.d4;
  var sum = x[first];
  for (var g = 1u; g < params.group; g++) {
    sum += x[first + g * params.d4];
  }
  out[i] = sum;
}
