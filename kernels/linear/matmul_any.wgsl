// C = α · A·B (+ D), one invocation for each element: any shape and layout. The fast kernels take what they can.
override TRANSPOSE_A: bool;
override TRANSPOSE_B: bool;
override ADD: bool;

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read> d: array<f32>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;
@group(0) @binding(4) var<uniform> p: Product;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  if (i >= p.batch * p.m * p.n) {
    return;
  }
  let which = i / (p.m * p.n);
  let row = i / p.n % p.m;
  let column = i % p.n;
  let a_base = which * p.a_stride;
  let b_base = which * p.b_stride;
  var total = 0.0;
  for (var k = 0u; k < p.k; k++) {
    let x = a[a_base + select(row * p.k + k, k * p.m + row, TRANSPOSE_A)];
    let y = b[b_base + select(k * p.n + column, column * p.k + k, TRANSPOSE_B)];
    total = fma(x, y, total);
  }
  total *= p.alpha;
  if (ADD) {
    total += d[i];
  }
  c[i] = total;
}
