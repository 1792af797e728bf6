// For new tokens of a decoded sequence: the queries are turned, the keys are turned into the cache, the values are copied into
// it, behind the `past` slots that are filled. q, k, v and the table, angles, are inputs, V a group of elements, in which `half`
// is counted (kernels/quads.ts). Each invocation does one pair of groups, of a query's, a key's or a value's head.
struct Params { tokens: u32, length: u32, slots: u32, heads: u32, kv_heads: u32, half: u32 }

@group(0) @binding(4) var<storage, read> positions: array<i32>;
@group(0) @binding(5) var<storage, read> past: array<i32>;
@group(0) @binding(6) var<storage, read_write> turned: array<V>;
@group(0) @binding(7) var<storage, read_write> keys: array<V>;
@group(0) @binding(8) var<storage, read_write> values: array<V>;
@group(0) @binding(9) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  let half = params.half;
  let pairs = (params.heads + 2u * params.kv_heads) * half;
  let token = i / pairs;
  if (token >= params.tokens) {
    return;
  }
  let head = i % pairs / half;
  let j = i % half;
  let slot = u32(past[0]) + token % params.length;
  let cached = token / params.length * params.slots + slot;
  let angle = u32(positions[token]) * 2u * half + j;
  let c = angles_at(angle);
  let s = angles_at(angle + half);
  if (head < params.heads) {
    let at = (token * params.heads + head) * 2u * half + j;
    let a = q_at(at);
    let b = q_at(at + half);
    turned[at] = a * c - b * s;
    turned[at + half] = b * c + a * s;
    return;
  }
  if (slot >= params.slots) {
    return;
  }
  let kv_head = (head - params.heads) % params.kv_heads;
  let own = (token * params.kv_heads + kv_head) * 2u * half + j;
  let to = (cached * params.kv_heads + kv_head) * 2u * half + j;
  if (head < params.heads + params.kv_heads) {
    let a = k_at(own);
    let b = k_at(own + half);
    keys[to] = a * c - b * s;
    keys[to + half] = b * c + a * s;
  } else {
    values[to] = v_at(own);
    values[to + half] = v_at(own + half);
  }
}
