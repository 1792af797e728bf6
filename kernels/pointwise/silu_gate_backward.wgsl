// The gradients of silu_gate: with σ = sigmoid(gate),
//   d gate = d out · up · σ · (1 + gate · (1 − σ)),   d up = d out · gate · σ
// Four elements at a time: gate, up and d_out are inputs, prepended by silu_gate.ts.
@group(0) @binding(3) var<storage, read_write> d_gate: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> d_up: array<vec4<f32>>;
@group(0) @binding(5) var<uniform> quads: vec4<u32>;

fn sigmoid(x: vec4<f32>) -> vec4<f32> {
  let e = exp(-abs(x));
  return select(e, vec4<f32>(1.0), x >= vec4<f32>()) / (1.0 + e);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  if (i < quads.x) {
    let x = gate_at(i);
    let s = sigmoid(x);
    let g = d_out_at(i);
    d_gate[i] = g * up_at(i) * s * (1.0 + x * (1.0 - s));
    d_up[i] = g * x * s;
  }
}
