// out = a ∘ b, where ∘ is + − × ÷ or «the first», with broadcasting over up to four axes.
override OP: u32;
override BROADCAST: bool;

struct Layout {
  shape: vec4<u32>,
  a_strides: vec4<u32>,
  b_strides: vec4<u32>,
  size: u32,
}

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(0) @binding(3) var<uniform> walk: Layout;

fn coordinates(i: u32) -> vec4<u32> {
  var rest = i;
  var c: vec4<u32>;
  c.w = rest % walk.shape.w;
  rest /= walk.shape.w;
  c.z = rest % walk.shape.z;
  rest /= walk.shape.z;
  c.y = rest % walk.shape.y;
  c.x = rest / walk.shape.y;
  return c;
}

fn combine(x: f32, y: f32) -> f32 {
  if (OP == 0u) { return x + y; }
  if (OP == 1u) { return x - y; }
  if (OP == 2u) { return x * y; }
  if (OP == 3u) { return x / y; }
  return x;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  if (i >= walk.size) {
    return;
  }
  if (BROADCAST) {
    let c = coordinates(i);
    let x = c * walk.a_strides;
    let y = c * walk.b_strides;
    out[i] = combine(a[x.x + x.y + x.z + x.w], b[y.x + y.y + y.z + y.w]);
  } else {
    out[i] = combine(a[i], b[i]);
  }
}
