// out[i] = table[ids[i]]: rows of a table, which embedding.ts prepends, in 32 or 16 bits. Workgroups along y have an id each, or
// several. V is a group of elements.
struct Params { count: u32, groups: u32, rows: u32 }

override LANES: u32 = 64u;
override ROWS: u32 = 1u;

@group(0) @binding(1) var<storage, read> ids: array<i32>;
@group(0) @binding(2) var<storage, read_write> out: array<V>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  for (var i = w.y * ROWS + t / LANES; i < params.count; i += n.y * ROWS) {
    for (var k = w.x * LANES + t % LANES; k < params.groups; k += n.x * LANES) {
      out[i * params.groups + k] = table_at(min(u32(ids[i]), params.rows - 1u) * params.groups + k);
    }
  }
}
