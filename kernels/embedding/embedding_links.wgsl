// For each of the ids, whether it is the first that names its row, and which is the next that does (`count` if none):
// links[i] = (first, next). A workgroup has four ids, and LANES invocations for each, which share the looking.
struct Params { count: u32 }

const LANES = 64u;

@group(0) @binding(0) var<storage, read> ids: array<vec4<i32>>;
@group(0) @binding(1) var<storage, read_write> links: array<vec2<u32>>;
@group(0) @binding(2) var<uniform> params: Params;

var<workgroup> found: array<vec2<u32>, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let own = w.x * 4u + t / LANES;
  let id = ids[w.x][t / LANES];
  var before = vec4<u32>(); // not 0 where an earlier one has the same id
  var next = vec4<u32>(params.count);
  for (var four = t % LANES; 4u * four < params.count; four += LANES) {
    let other = 4u * four + vec4<u32>(0u, 1u, 2u, 3u);
    let same = (ids[four] == vec4<i32>(id)) & (other < vec4<u32>(params.count));
    before |= select(vec4<u32>(), vec4<u32>(1u), same & (other < vec4<u32>(own)));
    next = min(next, select(vec4<u32>(params.count), other, same & (other > vec4<u32>(own))));
  }
  found[t] = vec2<u32>(
    before.x | before.y | before.z | before.w,
    min(min(next.x, next.y), min(next.z, next.w)),
  );
  workgroupBarrier();
  if (t % LANES == 0u && own < params.count) {
    var all = found[t];
    for (var i = 1u; i < LANES; i++) {
      let other = found[t + i];
      all = vec2<u32>(all.x | other.x, min(all.y, other.y));
    }
    links[own] = vec2<u32>(1u - all.x, all.y);
  }
}
