// out = x[:, start .. start + width], over x [rows, length].
struct Params { rows: u32, length: u32, start: u32, width: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  if (i < params.rows * params.width) {
    out[i] = x[i / params.width * params.length + params.start + i % params.width];
  }
}
