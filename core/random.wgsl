// Threefry-2x32, 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): the same stream as
// core/random.ts. Two words of key, two of counter, two of random bits.
fn threefry(key: vec2<u32>, counter: vec2<u32>) -> vec2<u32> {
  let k = array<u32, 3>(key.x, key.y, key.x ^ key.y ^ 0x1bd11bdau);
  let r = array<u32, 8>(13u, 15u, 26u, 6u, 17u, 29u, 16u, 24u);
  var x = counter + key;
  for (var i = 0u; i < 20u; i++) {
    let turn = r[i & 7u];
    x.x += x.y;
    x.y = ((x.y << turn) | (x.y >> (32u - turn))) ^ x.x;
    if ((i & 3u) == 3u) {
      let j = (i >> 2u) + 1u;
      x += vec2<u32>(k[j % 3u], k[(j + 1u) % 3u] + j);
    }
  }
  return x;
}

// A float in [0, 1) from the top 24 bits.
fn unit_float(bits: u32) -> f32 {
  return f32(bits >> 8u) * 0x1p-24;
}
