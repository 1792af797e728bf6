// The best of the parts of each row.
const THREADS = 64u;

@group(0) @binding(0) var<storage, read> best: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read_write> out: array<i32>;
@group(0) @binding(2) var<uniform> parts: vec4<u32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  var own = Candidate(-3.4e38, 0xffffffffu);
  for (var part = t; part < parts.x; part += THREADS) {
    let other = best[w.x * parts.x + part];
    own = better(own, Candidate(bitcast<f32>(other.x), other.y));
  }
  let found = best_of(own.value, own.token, t);
  if (t == 0u) {
    out[w.x] = i32(found.token);
  }
}
