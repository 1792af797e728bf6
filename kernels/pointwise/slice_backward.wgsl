// The gradient of slice: d_x [rows, length] is d_out [rows, width] from `start` on, and zero elsewhere; with `add`, what x has
// from its other uses, often further slices, is added. Lengths count groups V of elements (kernels/quads.ts).
struct Params { rows: u32, length: u32, start: u32, width: u32, add: u32 }

override LANES: u32 = 64u;
override ROWS: u32 = 1u;

@group(0) @binding(0) var<storage, read> d_out: array<V>;
@group(0) @binding(1) var<storage, read> earlier: array<V>;
@group(0) @binding(2) var<storage, read_write> d_x: array<V>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  for (var row = w.y * ROWS + t / LANES; row < params.rows; row += n.y * ROWS) {
    for (var k = w.x * LANES + t % LANES; k < params.length; k += n.x * LANES) {
      var own = V(0.0);
      if (k >= params.start && k < params.start + params.width) {
        own = d_out[row * params.width + k - params.start];
      }
      if (params.add == 1u) {
        own += earlier[row * params.length + k];
      }
      d_x[row * params.length + k] = own;
    }
  }
}
