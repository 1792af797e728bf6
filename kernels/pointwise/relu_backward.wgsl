// The gradient of relu: d out where x is above 0. Four elements at a time: x and d_out are inputs, prepended by relu.ts.
@group(0) @binding(2) var<storage, read_write> d_x: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> quads: vec4<u32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  if (i < quads.x) {
    d_x[i] = select(vec4<f32>(), d_out_at(i), x_at(i) > vec4<f32>());
  }
}
