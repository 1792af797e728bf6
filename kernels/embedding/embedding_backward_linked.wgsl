// The gradient of embedding: d_table is zero before, and the first of the ids that name a row follows the links to the others and
// adds up what all of them have for it, in their order, so that the sum is the same on every run.
struct Params { count: u32, quads: u32, rows: u32 }

@group(0) @binding(0) var<storage, read> ids: array<i32>;
@group(0) @binding(1) var<storage, read> links: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> d_out: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> d_table: array<vec4<f32>>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let own = w.y;
  let column = w.x * 128u + t;
  let id = u32(ids[own]);
  if (links[own].x == 0u || column >= params.quads || id >= params.rows) {
    return;
  }
  var total = d_out[own * params.quads + column];
  for (var other = links[own].y; other < params.count; other = links[other].y) {
    total += d_out[other * params.quads + column];
  }
  d_table[id * params.quads + column] = total;
}
