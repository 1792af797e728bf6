// δ of attention's backward pass: for each query and head d out · out, four invocations for each. Inputs are
// [batch, queries, heads, D], deltas [batch, heads, queries].
struct Params { batch: u32, queries: u32, heads: u32, d4: u32 }

@group(0) @binding(0) var<storage, read> out: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> d_out: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> deltas: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

var<workgroup> parts: array<array<f32, 4>, 32>;

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let first = (w.y * n.x + w.x) * 32u;
  let count = params.batch * params.queries * params.heads;
  let own = first + t / 4u;
  var sum = 0.0;
  if (own < count) {
    for (var d = t % 4u; d < params.d4; d += 4u) {
      sum += dot(out[own * params.d4 + d], d_out[own * params.d4 + d]);
    }
  }
  parts[t / 4u][t % 4u] = sum;
  workgroupBarrier();
  let i = first + t;
  if (t < 32u && i < count) {
    let head = i % params.heads;
    let query = i / params.heads % params.queries;
    let row = i / params.heads / params.queries;
    deltas[(row * params.heads + head) * params.queries + query] =
      (parts[t][0] + parts[t][1]) + (parts[t][2] + parts[t][3]);
  }
}
