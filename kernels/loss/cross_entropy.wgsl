// The loss of each row of logits [rows, classes]: log Σ exp(x) − x[target], and 0 where the target is −100. log Σ exp is kept for
// the backward pass. V is a group of classes (kernels/quads.ts).
struct Params { rows: u32, groups: u32 }

@group(0) @binding(0) var<storage, read> logits: array<V>;
@group(0) @binding(1) var<storage, read> targets: array<i32>;
@group(0) @binding(2) var<storage, read_write> losses: array<f32>;
@group(0) @binding(3) var<storage, read_write> log_sums: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) index: u32) {
  let t = row_lane(index);
  let row = (w.y * n.x + w.x) * ROWS + t.y;
  let base = row * params.groups;
  let found = log_sum(base, select(0u, params.groups, row < params.rows), t);
  if (t.x == 0u && row < params.rows) {
    let label = targets[row];
    var loss = 0.0;
    if (label >= 0) {
      loss = found - element(logits[base + u32(label) / GROUP], u32(label) % GROUP);
    }
    log_sums[row] = found;
    losses[row] = loss;
  }
}
