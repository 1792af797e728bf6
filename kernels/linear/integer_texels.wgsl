// y [m, n] = x [m, k] · Wᵀ (+ d) for up to four rows of x and integers W [n, k] of BITS bits, on software Vulkan: an invocation
// computes a row of W, a unit of codes at a time: a texel of four words, or three words where BITS is 3. Rows and groups are whole
// units. `texel` and `utexel` are prepended.
override BITS: u32;
// Rows of x: for each dispatch Mesa compiles a kernel anew that has loops whose ends follow from uniforms alone.
override M: u32;

struct Params { n: u32, k: u32, group_size: u32, groups: u32, add: u32 }

@group(0) @binding(0) var x: texture_2d<f32>;
@group(0) @binding(1) var packed: texture_2d<u32>;
@group(0) @binding(2) var<storage, read> scales: array<vec2<f32>>; // scale and zero of each group
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;
@group(0) @binding(5) var<storage, read> d: array<f32>;

fn word(i: u32) -> u32 {
  return utexel(packed, i / 4u)[i & 3u];
}

fn unit(i: u32) -> vec4<u32> {
  if (BITS == 3u) {
    return vec4<u32>(word(3u * i), word(3u * i + 1u), word(3u * i + 2u), 0u);
  }
  return utexel(packed, i);
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let row = (w.y * n.x + w.x) * 8u + t;
  let quads = select(32u / BITS, 8u, BITS == 3u); // vectors of four codes in a unit
  let k4 = params.k / 4u;
  let units = k4 / quads;
  let per_group = min(params.group_size / 4u / quads, units);
  let base = row * units;
  var total = vec4<f32>();
  for (var group = 0u; group < select(0u, params.groups, row < params.n); group++) {
    let own = scales[row * params.groups + group];
    var part = vec4<f32>();
    // The last group of a row may be shorter.
    let end = select(0u, min((group + 1u) * per_group, units), row < params.n);
    for (var at = group * per_group; at < end; at++) {
      let words = unit(base + at);
      for (var j = 0u; j < quads; j++) {
        let shift = 4u * BITS * j % 32u;
        var bits = words[j * BITS / 8u] >> shift;
        if (BITS == 3u) {
          bits |= (words[j * BITS / 8u + 1u] << 1u) << (31u - shift);
        }
        let codes = vec4<u32>(bits, bits >> BITS, bits >> (2u * BITS), bits >> (3u * BITS));
        // Signed, since processors convert only those in one step.
        let weights = vec4<f32>(vec4<i32>(codes & vec4<u32>((1u << BITS) - 1u))) - own.y;
        for (var m = 0u; m < M; m++) {
          part[m] += dot(weights, texel(x, m * k4 + at * quads + j));
        }
      }
    }
    total += part * own.x;
  }
  for (var m = 0u; m < M; m++) {
    if (row < params.n) {
      let out = m * params.n + row;
      y[out] = total[m] + select(0.0, d[out], params.add == 1u);
    }
  }
}
