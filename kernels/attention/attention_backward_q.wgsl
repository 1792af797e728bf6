// The gradient of attention for its queries. With p = exp(score − log sum) recomputed key by key, d p = d out · v, and
// δ = d out · out (Dao et al., "FlashAttention", arXiv 2205.14135):
//   d score = p · (d p − δ),   d q = scale · Σ d score · k
// δ is stored beside the log sum, for the keys' kernel.
struct Params {
  batch: u32,
  length: u32,
  heads: u32,
  kv_heads: u32,
  scale: f32,
}

@group(0) @binding(5) var<storage, read> positions: array<i32>;
@group(0) @binding(6) var<storage, read_write> stats: array<vec2<f32>>;
@group(0) @binding(7) var<storage, read_write> d_q: array<vec4<f32>>;
@group(0) @binding(8) var<uniform> params: Params;

@compute @workgroup_size(32)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 32u + t;
  let row = i / (params.length * params.heads);
  if (row >= params.batch) {
    return;
  }
  let head = (i / params.length) % params.heads;
  let query = i % params.length;
  let kv_head = head / (params.heads / params.kv_heads);
  let at = (row * params.length + query) * params.heads + head;

  var q_own: array<vec4<f32>, D4>;
  var g_own: array<vec4<f32>, D4>;
  var sum: array<vec4<f32>, D4>;
  var delta = 0.0;
  for (var d = 0u; d < D4; d++) {
    q_own[d] = q_at(at * D4 + d) * params.scale;
    g_own[d] = d_out_at(at * D4 + d);
    delta += dot(g_own[d], out_at(at * D4 + d));
    sum[d] = vec4<f32>();
  }
  let log_sum = stats[at].x;
  let first = query - u32(positions[row * params.length + query]);
  for (var key = first; key <= query; key++) {
    let kv = ((row * params.length + key) * params.kv_heads + kv_head) * D4;
    var score = vec4<f32>();
    var d_p = vec4<f32>();
    for (var d = 0u; d < D4; d++) {
      score += q_own[d] * k_at(kv + d);
      d_p += g_own[d] * v_at(kv + d);
    }
    let p = exp(score.x + score.y + score.z + score.w - log_sum);
    let d_score = p * (d_p.x + d_p.y + d_p.z + d_p.w - delta) * params.scale;
    for (var d = 0u; d < D4; d++) {
      sum[d] += d_score * k_at(kv + d);
    }
  }
  for (var d = 0u; d < D4; d++) {
    d_q[at * D4 + d] = sum[d];
  }
  stats[at].y = delta;
}
