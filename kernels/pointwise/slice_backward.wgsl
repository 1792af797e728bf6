// The gradient of slice: d_x [rows, length] is d_out [rows, width] from `start` on, and zero elsewhere; with `add`, what x has
// from its other uses, often further slices, is added.
struct Params { rows: u32, length: u32, start: u32, width: u32, add: u32 }

@group(0) @binding(0) var<storage, read> d_out: array<f32>;
@group(0) @binding(1) var<storage, read> earlier: array<f32>;
@group(0) @binding(2) var<storage, read_write> d_x: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  if (i >= params.rows * params.length) {
    return;
  }
  var own = 0.0;
  let column = i % params.length;
  if (column >= params.start && column < params.start + params.width) {
    own = d_out[i / params.length * params.width + column - params.start];
  }
  if (params.add == 1u) {
    own += earlier[i];
  }
  d_x[i] = own;
}
