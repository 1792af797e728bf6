// The sum of squares of each of `parts` pieces of a flat gradient.
struct Params { size: u32, parts: u32 }

@group(0) @binding(0) var<storage, read> grad: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(local_invocation_index) index: u32) {
  let t = row_lane(index);
  let part = w.x * ROWS + t.y;
  let piece = (params.size + params.parts - 1u) / params.parts;
  let first = min(part * piece, params.size);
  let last = min(first + piece, params.size);
  var total = 0.0;
  for (var i = first + t.x; i < last; i += LANES) {
    total += grad[i] * grad[i];
  }
  total = row_sum(total, t.x, t.y);
  if (t.x == 0u && part < params.parts) {
    out[part] = total;
  }
}
