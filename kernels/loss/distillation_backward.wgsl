// The gradient of the mean divergence for the student's logits: (softmax(s) − softmax(t)) / count, and 0 in rows whose target is
// −100. One invocation for each group of classes V (kernels/quads.ts).
struct Params { rows: u32, groups: u32 }

@group(0) @binding(0) var<storage, read> student: array<V>;
@group(0) @binding(1) var<storage, read> teacher: array<V>;
@group(0) @binding(2) var<storage, read> targets: array<i32>;
@group(0) @binding(3) var<storage, read> student_sums: array<f32>;
@group(0) @binding(4) var<storage, read> teacher_sums: array<f32>;
@group(0) @binding(5) var<storage, read> inverse: array<f32>;
@group(0) @binding(6) var<storage, read> d_loss: array<f32>;
@group(0) @binding(7) var<storage, read_write> d_student: array<V>;
@group(0) @binding(8) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  let row = i / params.groups;
  if (row >= params.rows) {
    return;
  }
  var slope = V(0.0);
  if (targets[row] >= 0) {
    let factor = inverse[0] * d_loss[0];
    slope = (exp(student[i] - student_sums[row]) - exp(teacher[i] - teacher_sums[row])) * factor;
  }
  d_student[i] = slope;
}
