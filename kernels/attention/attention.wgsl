// Causal attention with grouped queries, one invocation for each query: a pass over its keys with a running maximum
// (Milakov and Gimelshein, arXiv 1805.02867), so no score is ever stored. Layouts are [batch, length, heads, D], as the
// projections leave them. D4 = D / 4 is prepended by attention.ts, with the inputs q, k and v.
//
// A query sees the keys of its own sequence only: the slots from (its slot − its position) to its slot. That one rule covers
// plain batches, several sequences packed in a row, and padding on the left.
struct Params {
  batch: u32,
  queries: u32, // per row of the batch
  keys: u32,
  heads: u32,
  kv_heads: u32,
  scale: f32,
}

@group(0) @binding(3) var<storage, read> positions: array<i32>;
@group(0) @binding(4) var<storage, read> past: array<i32>; // slots filled before these queries
@group(0) @binding(5) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> stats: array<vec2<f32>>; // log of the sum, δ
@group(0) @binding(7) var<uniform> params: Params;

@compute @workgroup_size(32)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  // Neighbouring invocations take neighbouring queries of one head: they walk nearly the same keys.
  let i = (w.y * n.x + w.x) * 32u + t;
  let row = i / (params.queries * params.heads);
  if (row >= params.batch) {
    return;
  }
  let head = (i / params.queries) % params.heads;
  let query = i % params.queries;
  let kv_head = head / (params.heads / params.kv_heads);
  let at = ((row * params.queries + query) * params.heads + head);

  var q_own: array<vec4<f32>, D4>;
  var sum: array<vec4<f32>, D4>;
  for (var d = 0u; d < D4; d++) {
    q_own[d] = q_at(at * D4 + d) * params.scale;
    sum[d] = vec4<f32>();
  }
  let last = u32(past[0]) + query;
  let first = last - min(u32(positions[row * params.queries + query]), last);
  var largest = -3.4e38;
  var total = 0.0;
  for (var key = first; key <= last; key++) {
    let kv = ((row * params.keys + key) * params.kv_heads + kv_head) * D4;
    var products = vec4<f32>();
    for (var d = 0u; d < D4; d++) {
      products += q_own[d] * k_at(kv + d);
    }
    let score = products.x + products.y + products.z + products.w;
    let next = max(largest, score);
    let shrink = exp(largest - next);
    let weight = exp(score - next);
    largest = next;
    total = total * shrink + weight;
    for (var d = 0u; d < D4; d++) {
      sum[d] = sum[d] * shrink + weight * v_at(kv + d);
    }
  }
  for (var d = 0u; d < D4; d++) {
    out[at * D4 + d] = sum[d] / total;
  }
  stats[at] = vec2<f32>(largest + log(total), 0.0);
}
