// The gradient of the mean loss: (softmax(x) − one at the target) / count, and 0 in rows whose target is −100. Workgroups along
// y have a row each, or several. V is a group of classes (kernels/quads.ts).
struct Params { rows: u32, groups: u32 }

@group(0) @binding(0) var<storage, read> logits: array<V>;
@group(0) @binding(1) var<storage, read> targets: array<i32>;
@group(0) @binding(2) var<storage, read> log_sums: array<f32>;
@group(0) @binding(3) var<storage, read> inverse: array<f32>;
@group(0) @binding(4) var<storage, read> d_loss: array<f32>;
@group(0) @binding(5) var<storage, read_write> d_logits: array<V>;
@group(0) @binding(6) var<uniform> params: Params;

override THREADS: u32;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let factor = inverse[0] * d_loss[0];
  for (var row = w.y; row < params.rows; row += n.y) {
    let label = targets[row];
    let base = row * params.groups;
    let k = w.x * THREADS * COUNT + t;
    if (label < 0) {
      #{if (k + #u * THREADS < params.groups) { d_logits[base + k + #u * THREADS] = V(0.0); }}#
      continue;
    }
    let log_sum = log_sums[row];
    #{let x# = logits[base + min(k + #u * THREADS, params.groups - 1u)];}#
    #{if (k + #u * THREADS < params.groups) {
      let hot = one_at(u32(label) - (k + #u * THREADS) * GROUP);
      d_logits[base + k + #u * THREADS] = (exp(x# - log_sum) - hot) * factor;
    }}#
  }
}
