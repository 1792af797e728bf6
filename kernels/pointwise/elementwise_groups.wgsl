// out = a ∘ b as in elementwise.wgsl, four elements at a time. The last axis is walked in groups of four, in which an operand has
// four elements or one for all (a_at and b_at, prepended by elementwise.ts); rows are everything before it, over up to three axes.
override OP: u32;
override LANES: u32 = 256u;
override ROWS: u32 = 1u;

struct Layout {
  outer: vec3<u32>,
  groups: u32,
  a_strides: vec3<u32>,
  rows: u32,
  b_strides: vec3<u32>,
}

fn combine(x: vec4<f32>, y: vec4<f32>) -> vec4<f32> {
  if (OP == 0u) { return x + y; }
  if (OP == 1u) { return x - y; }
  if (OP == 2u) { return x * y; }
  if (OP == 3u) { return x / y; }
  return x;
}

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  if (walk.rows == 1u) {
    let k = (w.y * n.x + w.x) * LANES * ROWS + t;
    if (k < walk.groups) {
      out[k] = combine(a_at(0u, k), b_at(0u, k));
    }
    return;
  }
  for (var row = w.y * ROWS + t / LANES; row < walk.rows; row += n.y * ROWS) {
    let rest = row / walk.outer.z;
    let c = vec3<u32>(rest / walk.outer.y, rest % walk.outer.y, row % walk.outer.z);
    let x = dot(c, walk.a_strides);
    let y = dot(c, walk.b_strides);
    for (var k = w.x * LANES + t % LANES; k < walk.groups; k += n.x * LANES) {
      out[row * walk.groups + k] = combine(a_at(x, k), b_at(y, k));
    }
  }
}
