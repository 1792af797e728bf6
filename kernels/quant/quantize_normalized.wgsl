// RMSNorm of rows (Zhang and Sennrich, arXiv 1910.07467) and rounding of the result to signed bytes, four to a word, with the rows in
// registers. The numbers are those of rms_norm_held.wgsl and then quantize_rows.wgsl. round_rows.wgsl is prepended.
struct Params {
  rows: u32,
  groups: u32,
  columns: f32,
  epsilon: f32,
  scale: f32,
  zero: f32,
  least: f32,
  not_a_number: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> gain: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> codes: array<u32>;
@group(0) @binding(3) var<storage, read_write> scales: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

fn put_word(row: u32, at: u32, word: u32) {
  codes[row * params.groups + at] = word;
}
fn put_scale(row: u32, scale: f32) {
  scales[row] = scale;
}

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) index: u32) {
  round_rows(index, w.y * n.x + w.x);
}
