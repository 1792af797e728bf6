// Threefry-2x32, 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): the same stream as
// core/random.ts. Two words of key, two of counter, two of random bits. Rounds are written out: an array that is indexed by a
// variable is slow everywhere.
fn threefry_round(x: vec2<u32>, turn: u32) -> vec2<u32> {
  let sum = x.x + x.y;
  return vec2<u32>(sum, ((x.y << turn) | (x.y >> (32u - turn))) ^ sum);
}

fn threefry_odd(x: vec2<u32>) -> vec2<u32> {
  return threefry_round(threefry_round(threefry_round(threefry_round(x, 13u), 15u), 26u), 6u);
}

fn threefry_even(x: vec2<u32>) -> vec2<u32> {
  return threefry_round(threefry_round(threefry_round(threefry_round(x, 17u), 29u), 16u), 24u);
}

fn threefry(key: vec2<u32>, counter: vec2<u32>) -> vec2<u32> {
  let last = key.x ^ key.y ^ 0x1bd11bdau;
  var x = threefry_odd(counter + key) + vec2<u32>(key.y, last + 1u);
  x = threefry_even(x) + vec2<u32>(last, key.x + 2u);
  x = threefry_odd(x) + vec2<u32>(key.x, key.y + 3u);
  x = threefry_even(x) + vec2<u32>(key.y, last + 4u);
  return threefry_odd(x) + vec2<u32>(last, key.x + 5u);
}

// A float in [0, 1) from the top 24 bits.
fn unit_float(bits: u32) -> f32 {
  return f32(bits >> 8u) * 0x1p-24;
}
