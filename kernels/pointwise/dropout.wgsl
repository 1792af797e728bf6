// out = x · keep / (1 − p), where keep is 1 with probability 1 − p. Element i is decided by the Threefry stream of
// (seed, site) at counter (step, i / 2): the backward pass makes the same choice again instead of storing it.
struct Params { size: u32, p: f32, site: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read> state: array<u32>; // seed, step
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  // One draw of two words decides two elements.
  let i = ((w.y * n.x + w.x) * 64u + t) * 2u;
  let bits = threefry(vec2<u32>(state[0], params.site), vec2<u32>(state[1], i / 2u));
  let scale = 1.0 / (1.0 - params.p);
  if (i < params.size) {
    out[i] = select(0.0, x[i] * scale, unit_float(bits.x) >= params.p);
  }
  if (i + 1u < params.size) {
    out[i + 1u] = select(0.0, x[i + 1u] * scale, unit_float(bits.y) >= params.p);
  }
}
