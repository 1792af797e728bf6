// out [rows, columns] = (code − zero) · scale of its row. An invocation decodes a word of four codes.
struct Params { rows: u32, columns: u32, words: u32, zero: f32 }

@group(0) @binding(0) var<storage, read> codes: array<u32>;
@group(0) @binding(1) var<storage, read> scales: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let at = (w.y * n.x + w.x) * 64u + t;
  if (at >= params.rows * params.words) {
    return;
  }
  let row = at / params.words;
  let column = 4u * (at - row * params.words);
  let word = codes[at];
  let scale = scales[row];
  for (var i = 0u; i < min(4u, params.columns - column); i++) {
    let code = f32(extractBits(bitcast<i32>(word), 8u * i, 8u));
    out[row * params.columns + column + i] = (code - params.zero) * scale;
  }
}
