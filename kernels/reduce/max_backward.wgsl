// The gradient of max: it goes to the element that was the largest, and nowhere else.
struct Params { outer: u32, length: u32, inner: u32 }

@group(0) @binding(0) var<storage, read> d_out: array<f32>;
@group(0) @binding(1) var<storage, read> index: array<i32>;
@group(0) @binding(2) var<storage, read_write> d_x: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  if (i >= params.outer * params.length * params.inner) {
    return;
  }
  let k = (i / params.inner) % params.length;
  let o = i / (params.inner * params.length) * params.inner + i % params.inner;
  d_x[i] = select(0.0, d_out[o], u32(index[o]) == k);
}
