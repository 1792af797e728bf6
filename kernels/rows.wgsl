// Work on rows: LANES invocations share a row, ROWS rows share a workgroup. A GPU takes many lanes per row; software Vulkan one
// lane per row and eight rows, because there a barrier splits the shader and workgroup memory is slow (kernels/rows.ts decides).
override LANES: u32 = 64u;
override ROWS: u32 = 1u;

// Which lane of which row of the workgroup an invocation is. Workgroups have one axis: software Vulkan fills its vectors along
// the first, and eight rows of one lane along the second would leave seven eighths of each empty.
fn row_lane(index: u32) -> vec2<u32> {
  return vec2<u32>(index % LANES, index / LANES);
}

var<workgroup> row_shared: array<f32, LANES * ROWS>;

// The sum of `value` over the lanes of a row, in an order that depends on LANES alone. Many lanes go through sixteen, which all
// of them then read: three barriers, where halving takes one for each power of two.
fn row_sum(value: f32, lane: u32, slot: u32) -> f32 {
  if (LANES == 1u) {
    return value;
  }
  let base = slot * LANES;
  workgroupBarrier();
  row_shared[base + lane] = value;
  if (LANES >= 32u) {
    workgroupBarrier();
    if (lane < 16u) {
      var part = value;
      for (var k = lane + 16u; k < LANES; k += 16u) {
        part += row_shared[base + k];
      }
      row_shared[base + lane] = part; // which no other lane has read
    }
    workgroupBarrier();
    var all = row_shared[base];
    for (var k = 1u; k < 16u; k++) {
      all += row_shared[base + k];
    }
    return all;
  }
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane < half) {
      row_shared[base + lane] += row_shared[base + lane + half];
    }
  }
  workgroupBarrier();
  return row_shared[base];
}

// The largest `value` over the lanes of a row.
fn row_max(value: f32, lane: u32, slot: u32) -> f32 {
  if (LANES == 1u) {
    return value;
  }
  let base = slot * LANES;
  workgroupBarrier();
  row_shared[base + lane] = value;
  if (LANES >= 32u) {
    workgroupBarrier();
    if (lane < 16u) {
      var part = value;
      for (var k = lane + 16u; k < LANES; k += 16u) {
        part = max(part, row_shared[base + k]);
      }
      row_shared[base + lane] = part;
    }
    workgroupBarrier();
    var all = row_shared[base];
    for (var k = 1u; k < 16u; k++) {
      all = max(all, row_shared[base + k]);
    }
    return all;
  }
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane < half) {
      row_shared[base + lane] = max(row_shared[base + lane], row_shared[base + lane + half]);
    }
  }
  workgroupBarrier();
  return row_shared[base];
}

// Two sums at once.
fn row_sums(values: vec2<f32>, lane: u32, slot: u32) -> vec2<f32> {
  if (LANES < 32u) {
    return vec2<f32>(row_sum(values.x, lane, slot), row_sum(values.y, lane, slot));
  }
  let base = slot * LANES;
  workgroupBarrier();
  row_pairs[base + lane] = values;
  workgroupBarrier();
  if (lane < 16u) {
    var part = values;
    for (var k = lane + 16u; k < LANES; k += 16u) {
      part += row_pairs[base + k];
    }
    row_pairs[base + lane] = part;
  }
  workgroupBarrier();
  var all = row_pairs[base];
  for (var k = 1u; k < 16u; k++) {
    all += row_pairs[base + k];
  }
  return all;
}

var<workgroup> row_pairs: array<vec2<f32>, LANES * ROWS>;
