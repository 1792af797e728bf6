// Sums over the middle axis of x [outer, length, groups], cut into pieces: out [outer, parts, groups]. A workgroup has LANES
// groups side by side, and SLOTS invocations for each, which take turns down the piece; their sums are added in order. V is a
// group of elements.
struct Params { length: u32, groups: u32, piece: u32 }

override LANES: u32 = 32u;
override SLOTS: u32 = 8u;

@group(0) @binding(0) var<storage, read> x: array<V>;
@group(0) @binding(1) var<storage, read_write> out: array<V>;
@group(0) @binding(2) var<uniform> params: Params;

var<workgroup> slots: array<V, LANES * SLOTS>;

@compute @workgroup_size(LANES * SLOTS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let column = w.x * LANES + t % LANES;
  let at = min(column, params.groups - 1u);
  let first = w.y * params.piece;
  let last = min(first + params.piece, params.length);
  let base = w.z * params.length;
  var sum = V(0.0);
  var k = first + t / LANES;
  for (; k + (COUNT - 1u) * SLOTS < last; k += COUNT * SLOTS) {
    #{let x# = x[(base + k + #u * SLOTS) * params.groups + at];}#
    #{sum += x#;}#
  }
  for (; k < last; k += SLOTS) {
    sum += x[(base + k) * params.groups + at];
  }
  slots[t] = sum;
  workgroupBarrier();
  if (t < LANES && column < params.groups) {
    for (var s = 1u; s < SLOTS; s++) {
      sum += slots[s * LANES + t];
    }
    out[(w.z * n.y + w.y) * params.groups + column] = sum;
  }
}
