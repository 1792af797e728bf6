
// The sum of what the rows of a workgroup have in the same lane, for the first row.
var<workgroup> slot_values: array<V, LANES * ROWS>;

fn slot_sum(value: V, t: vec2<u32>) -> V {
  if (ROWS == 1u) {
    return value;
  }
  workgroupBarrier();
  slot_values[t.y * LANES + t.x] = value;
  workgroupBarrier();
  var all = value;
  if (t.y == 0u) {
    for (var slot = 1u; slot < ROWS; slot++) {
      all += slot_values[slot * LANES + t.x];
    }
  }
  return all;
}
