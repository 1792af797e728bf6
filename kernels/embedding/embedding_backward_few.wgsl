// The gradient of embedding where the ids are few: d_table is zero before, and the first of the ids that name a row adds up what
// all of them have for it, in their order, so that the sum is the same on every run. An invocation has four columns of an id.
// ids and d_out are inputs, prepended by embedding.ts.
struct Params { count: u32, quads: u32, rows: u32 }

@group(0) @binding(2) var<storage, read_write> d_table: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  let own = i / params.quads;
  let column = i % params.quads;
  if (own >= params.count) {
    return;
  }
  let id = ids_at(own / 4u)[own % 4u];
  var total = vec4<f32>();
  for (var four = 0u; 4u * four < params.count; four++) {
    let found = ids_at(four) == vec4<u32>(id);
    if (!any(found)) {
      continue;
    }
    for (var k = 0u; k < 4u; k++) {
      let other = 4u * four + k;
      if (!found[k] || other >= params.count) {
        continue;
      }
      if (other < own) {
        return;
      }
      total += d_out_at(other * params.quads + column);
    }
  }
  if (id < params.rows) {
    d_table[id * params.quads + column] = total;
  }
}
