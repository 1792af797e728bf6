// Rotary position embedding (Su et al., arXiv 2104.09864) in Llama's arrangement: element j of a head turns with element
// j + half, by the angle of its position. The table holds cos and then sin, `half` each, for every position. Turning by the
// negative angle is the gradient. x and the table, angles, are inputs, V a group of elements, in which `half` is counted
// (kernels/quads.ts).
struct Params { tokens: u32, heads: u32, half: u32, sign: f32 }

@group(0) @binding(2) var<storage, read> positions: array<i32>;
@group(0) @binding(3) var<storage, read_write> out: array<V>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  let pairs = params.heads * params.half;
  if (i >= params.tokens * pairs) {
    return;
  }
  let token = i / pairs;
  let head = (i % pairs) / params.half;
  let j = i % params.half;
  let angle = u32(positions[token]) * 2u * params.half + j;
  let c = angles_at(angle);
  let s = angles_at(angle + params.half) * params.sign;
  let at = (token * params.heads + head) * 2u * params.half + j;
  let a = x_at(at);
  let b = x_at(at + params.half);
  out[at] = a * c - b * s;
  out[at + params.half] = b * c + a * s;
}
