// out = H (x · before) · after · UNIT over blocks of SIZE numbers of rows of x, H the Walsh-Hadamard matrix of SIZE, a power of two.
// A workgroup computes a block: in each of log2(SIZE) rounds, pairs of numbers become their sum and their difference.
struct Params { blocks: u32, in_row: u32, unit: f32 }

override SIZE: u32;
override LANES: u32;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> before: array<f32>;
@group(0) @binding(2) var<storage, read> after: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

var<workgroup> line: array<f32, SIZE>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let block = min(w.y * n.x + w.x, params.blocks - 1u);
  let column = block % params.in_row * SIZE;
  for (var i = t; i < SIZE; i += LANES) {
    line[i] = x[block * SIZE + i] * before[column + i];
  }
  for (var half = 1u; half < SIZE; half *= 2u) {
    workgroupBarrier();
    for (var pair = t; pair < SIZE / 2u; pair += LANES) {
      let low = pair / half * 2u * half + pair % half;
      let a = line[low];
      let b = line[low + half];
      line[low] = a + b;
      line[low + half] = a - b;
    }
  }
  workgroupBarrier();
  for (var i = t; i < SIZE; i += LANES) {
    out[block * SIZE + i] = line[i] * params.unit * after[column + i];
  }
}
