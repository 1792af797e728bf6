// The gradients of attention for keys and values, one invocation for each key: it walks the queries that saw it, over all heads
// of its group, in order.
//   d v = Σ p · d out,   d k = scale · Σ p · (d p − δ) · q
struct Params {
  batch: u32,
  length: u32,
  heads: u32,
  kv_heads: u32,
  scale: f32,
}

@group(0) @binding(4) var<storage, read> positions: array<i32>;
@group(0) @binding(5) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(6) var<storage, read_write> d_k: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> d_v: array<vec4<f32>>;
@group(0) @binding(8) var<uniform> params: Params;

@compute @workgroup_size(32)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 32u + t;
  let row = i / (params.length * params.kv_heads);
  if (row >= params.batch) {
    return;
  }
  let kv_head = (i / params.length) % params.kv_heads;
  let key = i % params.length;
  let group = params.heads / params.kv_heads;
  let kv = ((row * params.length + key) * params.kv_heads + kv_head) * D4;

  var k_own: array<vec4<f32>, D4>;
  var v_own: array<vec4<f32>, D4>;
  var k_sum: array<vec4<f32>, D4>;
  var v_sum: array<vec4<f32>, D4>;
  for (var d = 0u; d < D4; d++) {
    k_own[d] = k_at(kv + d) * params.scale;
    v_own[d] = v_at(kv + d);
    k_sum[d] = vec4<f32>();
    v_sum[d] = vec4<f32>();
  }
  for (var query = key; query < params.length; query++) {
    // A query that begins after this key belongs to the next sequence, as do all that follow.
    if (query - u32(positions[row * params.length + query]) > key) {
      break;
    }
    for (var h = 0u; h < group; h++) {
      let at = (row * params.length + query) * params.heads + kv_head * group + h;
      var score = vec4<f32>();
      var d_p = vec4<f32>();
      for (var d = 0u; d < D4; d++) {
        score += k_own[d] * q_at(at * D4 + d);
        d_p += v_own[d] * d_out_at(at * D4 + d);
      }
      let p = exp(score.x + score.y + score.z + score.w - stats[at].x);
      let d_score = p * (d_p.x + d_p.y + d_p.z + d_p.w - stats[at].y) * params.scale;
      for (var d = 0u; d < D4; d++) {
        k_sum[d] += d_score * q_at(at * D4 + d);
        v_sum[d] += p * d_out_at(at * D4 + d);
      }
    }
  }
  for (var d = 0u; d < D4; d++) {
    d_k[kv + d] = k_sum[d];
    d_v[kv + d] = v_sum[d];
  }
}
