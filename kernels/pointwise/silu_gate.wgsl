// The gate of SwiGLU (Shazeer, "GLU variants improve transformer", arXiv 2002.05202): out = silu(gate) · up, with
// silu(x) = x · σ(x).
@group(0) @binding(0) var<storage, read> gate: array<f32>;
@group(0) @binding(1) var<storage, read> up: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(0) @binding(3) var<uniform> size: vec4<u32>;

fn sigmoid(x: f32) -> f32 {
  // exp of a non-positive number never overflows
  let e = exp(-abs(x));
  return select(e, 1.0, x >= 0.0) / (1.0 + e);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  if (i < size.x) {
    let x = gate[i];
    out[i] = x * sigmoid(x) * up[i];
  }
}
