// Random words from a hash of index and seed: raw bits, numbers below a bound, or floats in [low, low + range). Inputs for benches:
// fast and repeatable, not for statistics (core/random.wgsl is).
override KIND: u32; // 0 bits, 1 whole numbers, 2 floats

struct Params { size: u32, seed: u32, below: u32, pad: u32, low: f32, range: f32 }

@group(0) @binding(0) var<storage, read_write> out: array<u32>;
@group(0) @binding(1) var<uniform> params: Params;

// Jarzynski and Olano, "Hash functions for GPU rendering" (JCGT 2020): PCG.
fn hash(word: u32) -> u32 {
  let state = word * 747796405u + 2891336453u;
  let mixed = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
  return (mixed >> 22u) ^ mixed;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  if (i >= params.size) {
    return;
  }
  let bits = hash(i ^ hash(params.seed));
  if (KIND == 0u) {
    out[i] = bits;
  } else if (KIND == 1u) {
    out[i] = bits % params.below;
  } else {
    out[i] = bitcast<u32>(params.low + params.range * f32(bits >> 8u) * 0x1p-24);
  }
}
