// GELU by its tanh approximation (Hendrycks and Gimpel, arXiv 1606.08415). As ½ (1 + tanh(u)) = σ(2 u),
//   out = x · σ(2 √(2/π) · (x + 0.044715 x³))
// which needs no tanh: some drivers' overflows. Four elements at a time: x is an input, prepended by gelu.ts.
@group(0) @binding(1) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> quads: vec4<u32>;

fn sigmoid(x: vec4<f32>) -> vec4<f32> {
  // exp of a non-positive number never overflows
  let e = exp(-abs(x));
  return select(e, vec4<f32>(1.0), x >= vec4<f32>()) / (1.0 + e);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  if (i < quads.x) {
    let x = x_at(i);
    out[i] = x * sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x));
  }
}
