// out [columns, rows] = xᵀ. A workgroup turns a tile of 16 × 16 through its own memory, so that both sides are walked along rows.
struct Params { rows: u32, columns: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

var<workgroup> tile: array<f32, 272>; // 16 rows of 17: neighbours in a column lie in different banks

@compute @workgroup_size(16, 16)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_id) t: vec3<u32>) {
  let across = (params.columns + 15u) / 16u;
  let own = w.y * n.x + w.x;
  let row = own / across * 16u;
  let column = own % across * 16u;
  if (row + t.y < params.rows && column + t.x < params.columns) {
    tile[t.y * 17u + t.x] = x[(row + t.y) * params.columns + column + t.x];
  }
  workgroupBarrier();
  if (column + t.y < params.columns && row + t.x < params.rows) {
    out[(column + t.y) * params.rows + row + t.x] = tile[t.x * 17u + t.y];
  }
}
