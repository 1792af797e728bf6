// Nothing but work, to bring a GPU's clock up before a timing: four chains of multiply-adds.
@group(0) @binding(0) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  var x = vec4<f32>(f32(id.x) * 1e-6);
  for (var i = 0u; i < 4000u; i++) {
    x = fma(x, vec4<f32>(0.999), vec4<f32>(0.1));
    x = fma(x, vec4<f32>(0.998), vec4<f32>(0.2));
  }
  // Never true: it keeps the compiler from leaving the loop out.
  if (x.x + x.y + x.z + x.w == -1.0) {
    out[0] = x.x;
  }
}
