// The sums of the columns of two matrices of one shape [length, groups], in one dispatch: workgroups with z 0 have the first. A
// workgroup has LANES groups side by side, and SLOTS invocations for each, which take turns down the column; their sums are added
// in order. V is a group of elements.
struct Params { length: u32, groups: u32 }

override LANES: u32 = 16u;
override SLOTS: u32 = 16u;

@group(0) @binding(0) var<storage, read> first: array<V>;
@group(0) @binding(1) var<storage, read> second: array<V>;
@group(0) @binding(2) var<storage, read_write> first_sums: array<V>;
@group(0) @binding(3) var<storage, read_write> second_sums: array<V>;
@group(0) @binding(4) var<uniform> params: Params;

var<workgroup> slots: array<V, LANES * SLOTS>;

fn piece_at(which: u32, i: u32) -> V {
  if (which == 0u) {
    return first[i];
  }
  return second[i];
}

@compute @workgroup_size(LANES * SLOTS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let column = w.x * LANES + t % LANES;
  let at = min(column, params.groups - 1u);
  var sum = V(0.0);
  var k = t / LANES;
  for (; k + (COUNT - 1u) * SLOTS < params.length; k += COUNT * SLOTS) {
    #{let x# = piece_at(w.z, (k + #u * SLOTS) * params.groups + at);}#
    #{sum += x#;}#
  }
  for (; k < params.length; k += SLOTS) {
    sum += piece_at(w.z, k * params.groups + at);
  }
  slots[t] = sum;
  workgroupBarrier();
  if (t < LANES && column < params.groups) {
    for (var s = 1u; s < SLOTS; s++) {
      sum += slots[s * LANES + t];
    }
    if (w.z == 0u) {
      first_sums[column] = sum;
    } else {
      second_sums[column] = sum;
    }
  }
}
