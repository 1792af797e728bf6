// out = x[:, start .. start + width], over x [rows, length]. Lengths count groups V of elements (kernels/quads.ts); workgroups
// along y have some rows each.
struct Params { rows: u32, length: u32, start: u32, width: u32 }

override LANES: u32 = 64u;
override ROWS: u32 = 1u;

@group(0) @binding(0) var<storage, read> x: array<V>;
@group(0) @binding(1) var<storage, read_write> out: array<V>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  for (var row = w.y * ROWS + t / LANES; row < params.rows; row += n.y * ROWS) {
    for (var k = w.x * LANES + t % LANES; k < params.width; k += n.x * LANES) {
      out[row * params.width + k] = x[row * params.length + params.start + k];
    }
  }
}
