// The gradients of LayerNorm for gain, Σ over rows of d out · x̂, and for bias, Σ of d out, here over each of `parts` pieces of
// the rows: out [2, parts, columns], gain's first.
struct Params { rows: u32, columns: u32, parts: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> stats: array<f32>;
@group(0) @binding(2) var<storage, read> d_out: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  let count = params.parts * params.columns;
  if (i >= count) {
    return;
  }
  let column = i % params.columns;
  let piece = (params.rows + params.parts - 1u) / params.parts;
  let first = i / params.columns * piece;
  let last = min(first + piece, params.rows);
  var gain = 0.0;
  var bias = 0.0;
  for (var row = first; row < last; row++) {
    let at = row * params.columns + column;
    let g = d_out[at];
    gain += g * (x[at] - stats[2u * row]) * stats[2u * row + 1u];
    bias += g;
  }
  out[i] = gain;
  out[count + i] = bias;
}
