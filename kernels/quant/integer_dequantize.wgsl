// out = (code − zero) · scale of its group. An invocation decodes a word: 32 / BITS codes, the first in the low bits;
// or, where BITS is 3, eight codes in three bytes.
override BITS: u32;
// Whether rows and groups are whole words, or units of eight codes.
override WHOLE: u32;

struct Params { size: u32, columns: u32, group_size: u32, groups: u32 }

@group(0) @binding(0) var<storage, read> packed: array<u32>;
@group(0) @binding(1) var<storage, read> scales: array<vec2<f32>>; // scale and zero of each group
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

// The codes of a unit, in the low bits.
fn codes_of(unit: u32) -> u32 {
  if (BITS != 3u) {
    return packed[unit];
  }
  let at = 3u * unit / 4u;
  let shift = (24u * unit) % 32u;
  // A shift by 32 would be one by 0: so it is done in two.
  return (packed[at] >> shift) | ((packed[at + 1u] << 1u) << (31u - shift));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let unit = (w.y * n.x + w.x) * 64u + t;
  let each = select(32u / BITS, 8u, BITS == 3u);
  let first = each * unit;
  if (first >= params.size) {
    return;
  }
  let bits = codes_of(unit);
  let last = min(first + each, params.size);
  if (WHOLE == 1u) {
    let row = first / params.columns;
    let group = scales[row * params.groups + (first - row * params.columns) / params.group_size];
    for (var i = 0u; i < each; i++) {
      let code = f32((bits >> (BITS * i)) & ((1u << BITS) - 1u));
      out[first + i] = (code - group.y) * group.x;
    }
    return;
  }
  for (var i = first; i < last; i++) {
    let row = i / params.columns;
    let group = scales[row * params.groups + (i - row * params.columns) / params.group_size];
    let code = f32((bits >> (BITS * (i - first))) & ((1u << BITS) - 1u));
    out[i] = (code - group.y) * group.x;
  }
}
