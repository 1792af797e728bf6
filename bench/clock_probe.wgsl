// How fast the GPU's clock runs: 262,144 multiply-adds, each of which waits for the last, in one small workgroup.
@group(0) @binding(0) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(32)
fn main(@builtin(local_invocation_index) t: u32) {
  var x = f32(t) * 1e-3;
  for (var i = 0u; i < 1024u; i++) {
LINKS
  }
  // Never true: it keeps the compiler from leaving the loop out.
  if (x == -1.0) {
    out[0] = x;
  }
}
