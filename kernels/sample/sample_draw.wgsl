// The best token of each part of a row: the largest logit, or at a temperature above 0 the largest of x / T − log(−log u) among
// those that the thresholds keep (the Gumbel trick).
@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> state: array<u32>; // seed, step, each row's stream
@group(0) @binding(2) var<storage, read> bins: array<u32>;
@group(0) @binding(3) var<storage, read> selections: array<Selection>;
@group(0) @binding(4) var<storage, read_write> best: array<vec2<u32>>; // a value's bits, a token
@group(0) @binding(5) var<uniform> params: Params;

fn score_of(x: f32, token: u32, stream: u32) -> f32 {
  if (params.temperature == 0.0) {
    return x;
  }
  let bits = threefry(vec2<u32>(state[0], stream), vec2<u32>(state[1], token)).x;
  let u = (f32(bits >> 9u) + 0.5) * 0x1p-23; // strictly between 0 and 1
  return x / params.temperature - log(-log(u));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let row = w.y;
  let base = row * params.classes;
  var least = 0u;
  if (params.pass_index > 0u) {
    least = after_pass(params.pass_index - 1u, row, t).key;
  }
  var stream = row;
  if (params.has_streams == 1u) {
    stream = state[2u + row];
  }
  var value = -3.4e38;
  var token = w.x * PART + t;
  #{let i# = w.x * PART + #u * THREADS + t;
  let x# = logits[base + min(i#, params.classes - 1u)];}#
  #{if (i# < params.classes && key_of(x#) >= least) {
    let score = score_of(x#, i#, stream);
    if (score > value) {
      value = score;
      token = i#;
    }
  }}#
  let found = best_of(value, token, t);
  if (t == 0u) {
    best[row * n.x + w.x] = vec2<u32>(bitcast<u32>(found.value), found.token);
  }
}
