// RMSNorm of rows (Zhang and Sennrich, arXiv 1910.07467) and rounding of the result to signed bytes, four to a word, with the rows in
// registers. The numbers are those of rms_norm_held.wgsl and then quantize_rows.wgsl. byte_rounding.wgsl is prepended.
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

@group(0) @binding(0) var<storage, read> x: array<V>;
@group(0) @binding(1) var<storage, read> gain: array<V>;
@group(0) @binding(2) var<storage, read_write> codes: array<u32>;
@group(0) @binding(3) var<storage, read_write> scales: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) index: u32) {
  ROW
  #{let v# = x# * r * gain[min(k#, params.groups - 1u)];}#
  var most = 0.0;
  #{most = select(most, most_of(most, v#), k# < params.groups);}#
  most = row_max(most, t.x, t.y);
  if (row >= params.rows) {
    return;
  }
  let scale = scale_of(most);
  let usable = is_usable(most);
  #{if (k# < params.groups) { codes[base + k#] = select(0u, word_of(v#, scale), usable); }}#
  if (t.x == 0u) {
    scales[row] = stored_scale(most);
  }
}
