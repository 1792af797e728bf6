// What is known after pass `index`, from what was known before it and its bins. All of a workgroup call it.
var<workgroup> scan_high: array<u32, 257>;
var<workgroup> scan_low: array<u32, 257>;
var<workgroup> scan_found: Selection;

fn after_pass(index: u32, row: u32, t: u32) -> Selection {
  let isMass = index >= 4u;
  var before = Selection(0u, 0u, 0u, 0.0);
  if (index % 4u != 0u) {
    before = selections[row * PASSES + index - 1u];
  }
  let at = (row * PASSES + index) * 512u + t;
  var high = bins[at];
  var low = 0u;
  if (isMass) {
    low = bins[at + 256u];
    high += low >> LOW_BITS;
    low &= (1u << LOW_BITS) - 1u;
  }
  scan_high[t] = high;
  scan_low[t] = low;
  if (t == 0u) {
    scan_high[256] = 0u;
    scan_low[256] = 0u;
    scan_found = before;
  }
  // Sums from each bin to the last.
  for (var step = 1u; step < 256u; step *= 2u) {
    workgroupBarrier();
    if (t + step < 256u) {
      high += scan_high[t + step];
      low += scan_low[t + step];
    }
    workgroupBarrier();
    scan_high[t] = high;
    scan_low[t] = low;
  }
  workgroupBarrier();
  var wanted = before.wanted;
  if (index == 4u) {
    wanted = params.top_p * mass_of(scan_high[0], scan_low[0]);
  }
  let next_high = before.above + scan_high[t + 1u];
  let next_low = before.above_low + scan_low[t + 1u];
  var reached = before.above + high >= params.top_k;
  var passed = next_high >= params.top_k;
  if (isMass) {
    reached = mass_of(before.above + high, before.above_low + low) >= wanted;
    passed = mass_of(next_high, next_low) >= wanted;
  }
  workgroupBarrier();
  // The largest bin with which enough is reached: one, as the sums fall from bin to bin.
  if (reached && !passed) {
    scan_found = Selection(before.key | (t << (24u - 8u * (index % 4u))), next_high, next_low, wanted);
  }
  workgroupBarrier();
  return scan_found;
}
