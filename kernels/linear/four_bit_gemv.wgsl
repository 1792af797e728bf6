// y [m, n] = x [m, k] · Wᵀ for up to four rows of x and 4-bit W [n, k], k a multiple of 32. LANES invocations share a row of W; each
// takes 32 codes at a time. `x_at`, `packed_at`, `absmax_at`, `code_value` and rows.wgsl are prepended.
struct Params { m: u32, n: u32, k: u32, block_size: u32, add: u32 }

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) index: u32) {
  let t = row_lane(index);
  prepare_codes(index);
  let row = (w.y * groups.x + w.x) * ROWS + t.y;
  let units = select(0u, params.k / 32u, row < params.n);
  var total = vec4<f32>();
  for (var unit = t.x; unit < units; unit += LANES) {
    let at = row * (params.k / 32u) + unit;
    let words = packed_at(at);
    var part = vec4<f32>();
    for (var j = 0u; j < 8u; j++) {
      // Four codes: the high and the low half of two bytes.
      let bits = words[j / 2u] >> (16u * (j % 2u));
      let weights = vec4<f32>(
        code_value((bits >> 4u) & 15u), code_value(bits & 15u),
        code_value((bits >> 12u) & 15u), code_value((bits >> 8u) & 15u));
      let k4 = params.k / 4u;
      for (var m = 0u; m < params.m; m++) {
        part[m] += dot(weights, x_at(m * k4 + 8u * unit + j));
      }
    }
    total += part * absmax_at(at * 32u / params.block_size);
  }
  for (var m = 0u; m < params.m; m++) {
    let sum = row_sum(total[m], t.x, t.y);
    if (t.x == 0u && row < params.n) {
      let out = m * params.n + row;
      if (params.add == 1u) {
        y[out] = sum + d[out];
      } else {
        y[out] = sum;
      }
    }
  }
}
