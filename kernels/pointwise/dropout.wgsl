// out = x · keep / (1 − p), where keep is 1 with probability 1 − p. Element i is decided by the Threefry stream of
// (seed, site) at counter (step, i / 2): the backward pass makes the same choice again instead of storing it. Four elements at a
// time: buffers are padded to that.
struct Params { quads: u32, p: f32, site: u32 }

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> state: array<u32>; // seed, step
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  if (i >= params.quads) {
    return;
  }
  let key = vec2<u32>(state[0], params.site);
  let first = threefry(key, vec2<u32>(state[1], 2u * i));
  let second = threefry(key, vec2<u32>(state[1], 2u * i + 1u));
  let draws = vec4<f32>(unit_float(first.x), unit_float(first.y), unit_float(second.x), unit_float(second.y));
  out[i] = select(vec4<f32>(), x[i] * (1.0 / (1.0 - params.p)), draws >= vec4<f32>(params.p));
}
