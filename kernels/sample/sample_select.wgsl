// What the kernels that choose tokens with many workgroups share. A row of logits is cut into parts, a workgroup each. Thresholds
// are found eight bits at a time: a pass counts, in 256 bins, the logits that agree with the bits found so far, or adds up their
// probabilities; the next pass reads the bins and knows eight more. Passes 0 to 3 find the key of the k-th largest logit, passes 4
// to 7 that of the last which the mass p needs. Bins are whole numbers, so that the order of additions does not matter.
struct Params {
  rows: u32,
  classes: u32,
  top_k: u32, // 0 for all
  top_p: f32, // 1 for all
  temperature: f32,
  has_streams: u32,
  pass_index: u32,
}

const PASSES = 8u;
// A probability, relative to the largest, as a whole number: a bin has its bits from 14 on, another one those below.
const UNIT = 134217728.0; // 2²⁷
const LOW_BITS = 14u;

// What is known after a pass: the threshold's bits, what lies above them (a count, or a mass in two parts), and the mass wanted.
struct Selection { key: u32, above: u32, above_low: u32, wanted: f32 }

// The order of floats as the order of whole numbers.
fn key_of(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}

fn mass_of(high: u32, low: u32) -> f32 {
  return f32(high + (low >> LOW_BITS)) * f32(1u << LOW_BITS) + f32(low & ((1u << LOW_BITS) - 1u));
}
