// The gate of SwiGLU (Shazeer, "GLU variants improve transformer", arXiv 2002.05202): out = silu(gate) · up, with
// silu(x) = x · σ(x). Four elements at a time: gate and up are inputs, prepended by silu_gate.ts.
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> quads: vec4<u32>;

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
    let x = gate_at(i);
    out[i] = x * sigmoid(x) * up_at(i);
  }
}
