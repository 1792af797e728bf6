// y [m, n] = x [m, k] · Wᵀ (+ d) for up to four rows of x and W [n, k] in GGUF's blocks. LANES invocations share a row of W; each
// takes 32 weights at a time. M, the rows of x, `x_at`, `packed_word`, `weights_at`, BLOCK_WEIGHTS, BLOCK_BYTES and
// rows.wgsl are prepended. M is no uniform: llvmpipe takes 4 ms for a loop to an unknown end within another, whatever there is to do.
struct Params { n: u32, k: u32, add: u32 }

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) index: u32) {
  let t = row_lane(index);
  let row = (w.y * groups.x + w.x) * ROWS + t.y;
  let units = select(0u, params.k / 32u, row < params.n);
  let k4 = params.k / 4u;
  var total = vec4<f32>();
  for (var unit = t.x; unit < units; unit += LANES) {
    let first = row * params.k + 32u * unit;
    let at = first / BLOCK_WEIGHTS * BLOCK_BYTES;
    for (var j = 0u; j < 8u; j++) {
      let weights = weights_at(at, first % BLOCK_WEIGHTS + 4u * j);
      for (var m = 0u; m < M; m++) {
        total[m] += dot(weights, x_at(m * k4 + 8u * unit + j));
      }
    }
  }
  for (var m = 0u; m < M; m++) {
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
