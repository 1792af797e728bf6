// For each of the ids, whether it is the first that names its row, and which is the next that does (`count` if none):
// links[i] = (first, next).
struct Params { count: u32 }

@group(0) @binding(0) var<storage, read> ids: array<vec4<i32>>;
@group(0) @binding(1) var<storage, read_write> links: array<vec2<u32>>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let own = w.x * 64u + t;
  let id = ids[min(own, params.count - 1u) / 4u][own % 4u];
  var first = vec4<bool>(true);
  var next = vec4<u32>(params.count);
  for (var four = 0u; 4u * four < params.count; four++) {
    let other = 4u * four + vec4<u32>(0u, 1u, 2u, 3u);
    let same = (ids[four] == vec4<i32>(id)) & (other < vec4<u32>(params.count));
    first &= !(same & (other < vec4<u32>(own)));
    next = min(next, select(vec4<u32>(params.count), other, same & (other > vec4<u32>(own))));
  }
  if (own < params.count) {
    links[own] = vec2<u32>(select(0u, 1u, all(first)), min(min(next.x, next.y), min(next.z, next.w)));
  }
}
