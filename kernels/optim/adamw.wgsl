// AdamW (Loshchilov and Hutter, arXiv 1711.05101) over flat buffers, with clipping by the global norm, in PyTorch's order:
//   g ← g · min(1, clip / (norm + 1e-6))      (no clipping where clip is 0)
//   w ← w · (1 − lr · decay)
//   m ← m + (1 − β₁) · (g − m)                v ← β₂ · v + (1 − β₂) · g²
//   w ← w − lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)
// Every block of 64 weights has its own factor of the learning rate, and its own decay.
struct Hyper {
  learning_rate: f32,
  beta1: f32,
  beta2: f32,
  epsilon: f32,
  correction1: f32, // 1 − β₁ᵗ, computed on the host in float64
  correction2: f32, // √(1 − β₂ᵗ)
  clip: f32,
}

@group(0) @binding(0) var<storage, read_write> weights: array<f32>;
@group(0) @binding(1) var<storage, read_write> first: array<f32>;
@group(0) @binding(2) var<storage, read_write> second: array<f32>;
@group(0) @binding(3) var<storage, read> grad: array<f32>;
@group(0) @binding(4) var<storage, read> norm: array<f32>;
@group(0) @binding(5) var<storage, read> hyper: Hyper;
@group(0) @binding(6) var<storage, read> blocks: array<vec2<f32>>; // factor of the learning rate, decay
@group(0) @binding(7) var<uniform> size: vec4<u32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let block = w.y * n.x + w.x;
  let i = block * 64u + t;
  if (i >= size.x) {
    return;
  }
  let rate = hyper.learning_rate * blocks[block].x;
  var shrink = 1.0;
  if (hyper.clip > 0.0) {
    shrink = min(1.0, hyper.clip / (norm[0] + 1e-6));
  }
  let g = grad[i] * shrink;
  let m = first[i] + (1.0 - hyper.beta1) * (g - first[i]);
  let v = hyper.beta2 * second[i] + (1.0 - hyper.beta2) * g * g;
  first[i] = m;
  second[i] = v;
  let decayed = weights[i] * (1.0 - rate * blocks[block].y);
  let scale = sqrt(v) / hyper.correction2 + hyper.epsilon;
  weights[i] = decayed - rate / hyper.correction1 * (m / scale);
}
