// One pass over a part of a row: what is known before it, then the bins of eight bits more.
@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> largest: array<f32>;
@group(0) @binding(2) var<storage, read_write> all_bins: array<atomic<u32>>;
@group(0) @binding(3) var<storage, read_write> selections: array<Selection>;
@group(0) @binding(4) var<uniform> params: Params;

var<workgroup> own_bins: array<atomic<u32>, 512>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let row = w.y;
  let base = row * params.classes;
  let index = params.pass_index;
  let isMass = index >= 4u;
  let has_k = params.top_k > 0u;
  atomicStore(&own_bins[t], 0u);
  atomicStore(&own_bins[t + 256u], 0u);
  var known = Selection(0u, 0u, 0u, 0.0);
  if (index > select(4u, 0u, has_k)) {
    known = after_pass(index - 1u, row, t);
    if (w.x == 0u && t == 0u) {
      selections[row * PASSES + index - 1u] = known;
    }
  }
  // Of the k largest in the passes for the mass.
  var least = 0u;
  if (isMass && has_k) {
    least = known.key;
    if (index > 4u) {
      least = selections[row * PASSES + 3u].key;
    }
  }
  var top = -3.4e38;
  if (isMass) {
    for (var part = t; part < n.x; part += THREADS) {
      top = max(top, largest[row * n.x + part]);
    }
    top = row_max(top, t, 0u);
  }
  let digit = index % 4u;
  let shift = 24u - 8u * digit;
  let agreed = select(0xffffffffu << (32u - 8u * max(digit, 1u)), 0u, digit == 0u);
  workgroupBarrier();
  #{{
    let i = w.x * PART + #u * THREADS + t;
    if (i < params.classes) {
      let x = logits[base + i];
      let key = key_of(x);
      if (key >= least && (key & agreed) == (known.key & agreed)) {
        let bin = (key >> shift) & 255u;
        if (isMass) {
          let mass = u32(exp((x - top) / params.temperature) * UNIT + 0.5);
          atomicAdd(&own_bins[bin], mass >> LOW_BITS);
          atomicAdd(&own_bins[256u + bin], mass & ((1u << LOW_BITS) - 1u));
        } else {
          atomicAdd(&own_bins[bin], 1u);
        }
      }
    }
  }}#
  workgroupBarrier();
  let at = (row * PASSES + index) * 512u;
  for (var i = t; i < 512u; i += THREADS) {
    let count = atomicLoad(&own_bins[i]);
    if (count > 0u) {
      atomicAdd(&all_bins[at + i], count);
    }
  }
}
