// norm[0] = √ Σ parts
@group(0) @binding(0) var<storage, read> parts: array<f32>;
@group(0) @binding(1) var<storage, read_write> norm: array<f32>;
@group(0) @binding(2) var<uniform> count: vec4<u32>;

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(local_invocation_index) index: u32) {
  let t = row_lane(index);
  var total = 0.0;
  for (var i = t.x; i < count.x; i += LANES) {
    total += parts[i];
  }
  total = row_sum(total, t.x, t.y);
  if (t.x == 0u) {
    norm[0] = sqrt(total);
  }
}
