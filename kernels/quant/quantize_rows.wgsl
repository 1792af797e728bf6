// Rows of x [rows, columns] as signed bytes, four to a word, the first in the low bits; each row padded with 0 to whole words.
// LANES invocations share a row. A row with NaN or infinity in it gets NaN for its scale. rows.wgsl and byte_rounding.wgsl are
// prepended.

struct Params {
  rows: u32,
  columns: u32,
  words: u32, // of a row of codes
  scale: f32,
  zero: f32,
  least: f32,
  not_a_number: u32,
}

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
    most = most_of(most, four(row, i));
  }
  most = row_max(most, place.x, place.y);
  let scale = scale_of(most);
  if (inside && place.x == 0u) {
    scales[row] = stored_scale(most);
  }
  let usable = is_usable(most);
  for (var i = place.x; i < select(0u, params.words, inside); i += LANES) {
    var word = 0u;
    if (usable) {
      word = word_of(four(row, i), scale);
      // Behind the row's end there is nothing, not even a zero point.
      let left = params.columns - 4u * i;
      if (left < 4u) {
        word &= (1u << (8u * left)) - 1u;
      }
    }
    codes[row * params.words + i] = word;
  }
}
