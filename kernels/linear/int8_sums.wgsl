// Sums of the codes of each group of integer weights: of bytes less 128 for int8, of 0 to 15 for int4. An invocation for each group.
override BITS: u32;

struct Params { rows: u32, columns: u32, group_size: u32, groups: u32 }

@group(0) @binding(0) var<storage, read> packed: array<u32>;
@group(0) @binding(1) var<storage, read_write> sums: array<i32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let at = (w.y * n.x + w.x) * 64u + t;
  if (at >= params.rows * params.groups) {
    return;
  }
  let row = at / params.groups;
  let begin = (at - row * params.groups) * params.group_size;
  let end = min(begin + params.group_size, params.columns);
  let each = 32u / BITS;
  var sum = 0;
  for (var i = row * params.columns + begin; i < row * params.columns + end; i++) {
    let code = (packed[i / each] >> (BITS * (i % each))) & ((1u << BITS) - 1u);
    sum += i32(code) - select(0, 128, BITS == 8u);
  }
  sums[at] = sum;
}
