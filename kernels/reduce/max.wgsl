// The largest element over the middle axis of x [outer, length, inner], and where it stands; the first of equal ones.
struct Params { outer: u32, length: u32, inner: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> index: array<i32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  if (i >= params.outer * params.inner) {
    return;
  }
  let base = (i / params.inner) * params.length * params.inner + i % params.inner;
  var best = x[base];
  var at = 0u;
  for (var k = 1u; k < params.length; k++) {
    let value = x[base + k * params.inner];
    if (value > best) {
      best = value;
      at = k;
    }
  }
  out[i] = best;
  index[i] = i32(at);
}
