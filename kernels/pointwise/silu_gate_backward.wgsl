// The gradients of silu_gate: with σ = sigmoid(gate),
//   d gate = d out · up · σ · (1 + gate · (1 − σ)),   d up = d out · gate · σ
@group(0) @binding(0) var<storage, read> gate: array<f32>;
@group(0) @binding(1) var<storage, read> up: array<f32>;
@group(0) @binding(2) var<storage, read> d_out: array<f32>;
@group(0) @binding(3) var<storage, read_write> d_gate: array<f32>;
@group(0) @binding(4) var<storage, read_write> d_up: array<f32>;
@group(0) @binding(5) var<uniform> size: vec4<u32>;

fn sigmoid(x: f32) -> f32 {
  let e = exp(-abs(x));
  return select(e, 1.0, x >= 0.0) / (1.0 + e);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  if (i < size.x) {
    let x = gate[i];
    let s = sigmoid(x);
    let g = d_out[i];
    d_gate[i] = g * up[i] * s * (1.0 + x * (1.0 - s));
    d_up[i] = g * x * s;
  }
}
