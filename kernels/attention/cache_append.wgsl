// cache[:, past + t] = x[:, t]: new keys or values behind those of the tokens before.
struct Params { batch: u32, count: u32, slots: u32, width: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> past: array<i32>;
@group(0) @binding(2) var<storage, read_write> cache: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  if (i >= params.batch * params.count * params.width) {
    return;
  }
  let column = i % params.width;
  let slot = u32(past[0]) + i / params.width % params.count;
  let row = i / (params.width * params.count);
  if (slot < params.slots) {
    cache[(row * params.slots + slot) * params.width + column] = x[i];
  }
}
