// The gradient of gelu: with s = σ(v), v = c · (x + 0.044715 x³) and c = 2 √(2/π),
//   d x = d out · (s + x · s · (1 − s) · c · (1 + 3 · 0.044715 x²))
// Four elements at a time: x and d_out are inputs, prepended by gelu.ts.
@group(0) @binding(2) var<storage, read_write> d_x: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> quads: vec4<u32>;

fn sigmoid(x: vec4<f32>) -> vec4<f32> {
  let e = exp(-abs(x));
  return select(e, vec4<f32>(1.0), x >= vec4<f32>()) / (1.0 + e);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  if (i < quads.x) {
    let x = x_at(i);
    let s = sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x));
    let slope = 1.5957691216057308 * (1.0 + 0.134145 * x * x);
    d_x[i] = d_out_at(i) * (s + x * s * (1.0 - s) * slope);
  }
}
