// The Kullback-Leibler divergence of each row of a student's logits s from a teacher's t, [rows, classes]: with log-probabilities
// a = t − log Σ exp t and b = s − log Σ exp s, Σ exp(a) · (a − b), and 0 where the row's target is −100. V is a group of classes
// (kernels/quads.ts).
struct Params { rows: u32, groups: u32 }

@group(0) @binding(0) var<storage, read> student: array<V>;
@group(0) @binding(1) var<storage, read> teacher: array<V>;
@group(0) @binding(2) var<storage, read> targets: array<i32>;
@group(0) @binding(3) var<storage, read> student_sums: array<f32>;
@group(0) @binding(4) var<storage, read> teacher_sums: array<f32>;
@group(0) @binding(5) var<storage, read_write> losses: array<f32>;
@group(0) @binding(6) var<uniform> params: Params;

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) index: u32) {
  let place = row_lane(index);
  let row = (w.y * n.x + w.x) * ROWS + place.y;
  let counts = row < params.rows && targets[min(row, params.rows - 1u)] >= 0;
  let base = row * params.groups;
  let own = min(row, params.rows - 1u);
  let sums = vec2<f32>(student_sums[own], teacher_sums[own]);
  var loss = V(0.0);
  for (var k = place.x; k < select(0u, params.groups, counts); k += LANES) {
    let a = teacher[base + k] - sums.y;
    loss += exp(a) * (a - (student[base + k] - sums.x));
  }
  let whole = row_sum(total(loss), place.x, place.y);
  if (place.x == 0u && row < params.rows) {
    losses[row] = whole;
  }
}
