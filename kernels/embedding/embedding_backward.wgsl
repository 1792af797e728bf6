// The gradient of embedding: d_table[v] = Σ d_out[i] over the i with ids[i] = v, in the order of i, so that the sum is the same
// on every run. One workgroup owns a row of the table: it looks through the ids, 64 at a time, and adds what it finds.
struct Params { count: u32, columns: u32, rows: u32 }

@group(0) @binding(0) var<storage, read> ids: array<i32>;
@group(0) @binding(1) var<storage, read> d_out: array<f32>;
@group(0) @binding(2) var<storage, read_write> d_table: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

var<workgroup> hits: array<u32, 64>;
var<workgroup> any_hit: u32;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let row = w.y * n.x + w.x;
  let columns = select(0u, params.columns, row < params.rows);
  let base = row * params.columns;
  for (var k = t; k < columns; k += 64u) {
    d_table[base + k] = 0.0;
  }
  for (var first = 0u; first < params.count; first += 64u) {
    let i = first + t;
    let hit = i < params.count && u32(ids[min(i, params.count - 1u)]) == row;
    workgroupBarrier();
    if (t == 0u) {
      any_hit = 0u;
    }
    hits[t] = u32(hit);
    workgroupBarrier();
    if (hit) {
      any_hit = 1u; // every writer writes the same
    }
    if (workgroupUniformLoad(&any_hit) == 0u) {
      continue;
    }
    for (var h = 0u; h < 64u; h++) {
      if (hits[h] == 1u) {
        for (var k = t; k < columns; k += 64u) {
          d_table[base + k] += d_out[(first + h) * params.columns + k];
        }
      }
    }
  }
}
