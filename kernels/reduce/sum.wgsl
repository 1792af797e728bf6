// Sums over the middle axis of x [outer, length, inner], cut into `parts` pieces: out [outer, parts, inner]. One invocation
// walks a piece of a column; neighbouring invocations walk neighbouring columns.
struct Params { outer: u32, length: u32, inner: u32, parts: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  if (i >= params.outer * params.parts * params.inner) {
    return;
  }
  let column = i % params.inner;
  let part = (i / params.inner) % params.parts;
  let outer = i / (params.inner * params.parts);
  let piece = (params.length + params.parts - 1u) / params.parts;
  let first = part * piece;
  let last = min(first + piece, params.length);
  var total = 0.0;
  for (var k = first; k < last; k++) {
    total += x[(outer * params.length + k) * params.inner + column];
  }
  out[i] = total;
}
