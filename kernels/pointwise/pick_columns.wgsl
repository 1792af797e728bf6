// out[r, c] = x[r, columns[c]] over rows of x of `length`; 0 where columns[c] is below 0. Workgroups along y have some rows each.
struct Params { rows: u32, length: u32, width: u32 }

override LANES: u32 = 64u;
override ROWS: u32 = 1u;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> columns: array<i32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  for (var row = w.y * ROWS + t / LANES; row < params.rows; row += n.y * ROWS) {
    for (var c = w.x * LANES + t % LANES; c < params.width; c += n.x * LANES) {
      let source = columns[c];
      var value = 0.0;
      if (source >= 0) { value = x[row * params.length + u32(source)]; }
      out[row * params.width + c] = value;
    }
  }
}
