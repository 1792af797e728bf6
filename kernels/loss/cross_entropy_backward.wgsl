// The gradient of the mean loss: (softmax(x) − one at the target) / count, and 0 in rows whose target is −100.
struct Params { rows: u32, classes: u32 }

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> targets: array<i32>;
@group(0) @binding(2) var<storage, read> log_sums: array<f32>;
@group(0) @binding(3) var<storage, read> inverse: array<f32>;
@group(0) @binding(4) var<storage, read> d_loss: array<f32>;
@group(0) @binding(5) var<storage, read_write> d_logits: array<f32>;
@group(0) @binding(6) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  if (i >= params.rows * params.classes) {
    return;
  }
  let row = i / params.classes;
  let target_class = targets[row];
  var d = 0.0;
  if (target_class >= 0) {
    d = exp(logits[i] - log_sums[row]) - select(0.0, 1.0, i % params.classes == u32(target_class));
    d *= inverse[0] * d_loss[0];
  }
  d_logits[i] = d;
}
