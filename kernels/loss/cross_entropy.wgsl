// The loss of each row of logits [rows, classes]: log Σ exp(x) − x[target], and 0 where the target is −100. log Σ exp is kept for
// the backward pass.
struct Params { rows: u32, classes: u32 }

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> targets: array<i32>;
@group(0) @binding(2) var<storage, read_write> losses: array<f32>;
@group(0) @binding(3) var<storage, read_write> log_sums: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) index: u32) {
  let t = row_lane(index);
  let row = (w.y * n.x + w.x) * ROWS + t.y;
  let classes = select(0u, params.classes, row < params.rows);
  let base = row * params.classes;
  // One pass: the running maximum, and the sum of exponentials relative to it.
  var largest = -3.4e38;
  var total = 0.0;
  for (var k = t.x; k < classes; k += LANES) {
    let value = logits[base + k];
    let next = max(largest, value);
    total = total * exp(largest - next) + exp(value - next);
    largest = next;
  }
  let top = row_max(largest, t.x, t.y);
  total = row_sum(total * exp(largest - top), t.x, t.y);
  if (t.x == 0u && row < params.rows) {
    let log_sum = top + log(total);
    let target_class = targets[row];
    var loss = 0.0;
    if (target_class >= 0) {
      loss = log_sum - logits[base + u32(target_class)];
    }
    log_sums[row] = log_sum;
    losses[row] = loss;
  }
}
