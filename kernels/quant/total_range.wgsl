// One range that holds all of some ranges: one workgroup.
struct Params {
  size: u32,
}

@group(0) @binding(0) var<storage, read> ranges: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read_write> total: array<vec2<f32>>;
@group(0) @binding(2) var<uniform> params: Params;

var<workgroup> parts: array<vec2<f32>, 64>;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) t: u32) {
  var low = 3.4028234e38;
  var high = -3.4028234e38;
  for (var i = t; i < params.size; i += 64u) {
    low = min(low, ranges[i].x);
    high = max(high, ranges[i].y);
  }
  parts[t] = vec2<f32>(low, high);
  for (var half = 32u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (t < half) {
      let other = parts[t + half];
      parts[t] = vec2<f32>(min(parts[t].x, other.x), max(parts[t].y, other.y));
    }
  }
  if (t == 0u) {
    total[0] = parts[0];
  }
}
