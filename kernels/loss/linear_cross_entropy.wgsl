// The loss of each row of logits [rows, classes], as in cross_entropy.wgsl, and with `with_gradient` its gradient in the place of the
// logits: softmax(x) − one at the target, and 0 in rows whose target is −100. V is a group of classes (kernels/quads.ts).
struct Params { rows: u32, groups: u32, with_gradient: u32 }

@group(0) @binding(0) var<storage, read_write> logits: array<V>;
@group(0) @binding(1) var<storage, read> targets: array<i32>;
@group(0) @binding(2) var<storage, read_write> losses: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) index: u32) {
  let t = row_lane(index);
  let row = (w.y * n.x + w.x) * ROWS + t.y;
  let base = row * params.groups;
  let groups = select(0u, params.groups, row < params.rows);
  let found = log_sum(base, groups, t);
  if (groups == 0u) {
    return;
  }
  let label = targets[row];
  if (t.x == 0u && label < 0) {
    losses[row] = 0.0;
  }
  // The lane that has the target's logit takes the loss, before it writes the gradient there.
  let place = u32(label) / GROUP;
  if (label >= 0 && t.x == place % LANES) {
    losses[row] = found - element(logits[base + place], u32(label) % GROUP);
  }
  if (params.with_gradient == 0u) {
    return;
  }
  var k = t.x;
  for (; k + (COUNT - 1u) * LANES < groups; k += COUNT * LANES) {
    #{let x# = logits[base + k + #u * LANES];}#
    #{logits[base + k + #u * LANES] = gradient(x#, found, label, k + #u * LANES);}#
  }
  #{if (k + #u * LANES < groups) {
    let at = base + k + #u * LANES;
    logits[at] = gradient(logits[at], found, label, k + #u * LANES);
  }}#
}

fn gradient(x: V, log_sum: f32, label: i32, group: u32) -> V {
  return select(V(0.0), exp(x - log_sum) - one_at(u32(label) - group * GROUP), label >= 0);
}
