// y [m, n] = x [m, k] · Wᵀ (+ d) for up to four rows of x and 4-bit W [n, k], k a multiple of 32, on software Vulkan: an invocation
// computes a row of W, 32 codes at a time. `texel`, `utexel`, `absmax_at` and `code_at` are prepended.
struct Params { m: u32, n: u32, k: u32, block_size: u32, add: u32 }

@group(0) @binding(0) var x: texture_2d<f32>;
@group(0) @binding(1) var packed: texture_2d<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> d: array<f32>;

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let row = (w.y * groups.x + w.x) * 8u + t;
  let units = params.k / 32u;
  let k4 = params.k / 4u;
  var total = vec4<f32>();
  for (var unit = 0u; unit < select(0u, units, row < params.n); unit++) {
    let at = row * units + unit;
    let words = utexel(packed, at);
    var part = vec4<f32>();
    for (var j = 0u; j < 8u; j++) {
      // Four codes: the high and the low half of two bytes.
      let bits = words[j / 2u] >> (16u * (j % 2u));
      let weights = vec4<f32>(
        code_at(bits, 4u), code_at(bits, 0u),
        code_at(bits, 12u), code_at(bits, 8u));
      for (var m = 0u; m < params.m; m++) {
        part[m] += dot(weights, texel(x, m * k4 + 8u * unit + j));
      }
    }
    total += part * absmax_at(at * 32u / params.block_size);
  }
  for (var m = 0u; m < params.m; m++) {
    if (row < params.n) {
      let out = m * params.n + row;
      if (params.add == 1u) {
        y[out] = total[m] + d[out];
      } else {
        y[out] = total[m];
      }
    }
  }
}
