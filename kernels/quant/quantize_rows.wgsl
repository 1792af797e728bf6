// Rows of x [rows, columns] as signed bytes, four to a word, the first in the low bits; each row padded with 0 to whole words.
// LANES invocations share a row. A scale of 0 in the uniform stands for a scale of each row's own, absmax / 127. A row with NaN
// or infinity in it gets NaN for its scale. rows.wgsl is prepended.

struct Params {
  rows: u32,
  columns: u32,
  words: u32, // of a row of codes
  scale: f32,
  zero: f32,
  least: f32,
  not_a_number: u32, // its bits: WGSL has no way to write it
}

const LARGEST = 3.4028234e38;

@group(0) @binding(0) var<storage, read> x: array<X>;
@group(0) @binding(1) var<storage, read_write> codes: array<u32>;
@group(0) @binding(2) var<storage, read_write> scales: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let place = row_lane(t);
  let row = (w.y * n.x + w.x) * ROWS + place.y;
  let inside = row < params.rows;
  var most = 0.0;
  for (var i = place.x; i < select(0u, params.words, inside); i += LANES) {
    let v = abs(four(row, i));
    // The bits of NaN and infinity are above those of every number; comparisons of floats may be optimized as if there were none.
    let bits = bitcast<vec4<u32>>(v);
    let top = max(max(bits.x, bits.y), max(bits.z, bits.w));
    most = select(max(most, bitcast<f32>(min(top, 0x7f7fffffu))), LARGEST, top >= 0x7f800000u);
  }
  most = row_max(most, place.x, place.y);
  var scale = params.scale;
  if (scale == 0.0 && most >= 1e-30) {
    scale = most / 127.0;
  }
  let broken = most >= LARGEST;
  if (inside && place.x == 0u) {
    scales[row] = select(scale, bitcast<f32>(params.not_a_number), broken);
  }
  let usable = scale > 0.0 && !broken;
  for (var i = place.x; i < select(0u, params.words, inside); i += LANES) {
    var word = 0u;
    if (usable) {
      let q = clamp(round(four(row, i) / scale) + params.zero, vec4<f32>(params.least), vec4<f32>(127.0));
      let b = bitcast<vec4<u32>>(vec4<i32>(q)) & vec4<u32>(0xffu);
      word = b.x | (b.y << 8u) | (b.z << 16u) | (b.w << 24u);
      // Behind the row's end there is nothing, not even a zero point.
      let left = params.columns - 4u * i;
      if (left < 4u) {
        word &= (1u << (8u * left)) - 1u;
      }
    }
    codes[row * params.words + i] = word;
  }
}
