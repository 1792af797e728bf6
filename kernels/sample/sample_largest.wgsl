// The largest logit of each part of a row, and zeros in the bins of all passes.
@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read_write> largest: array<f32>;
@group(0) @binding(2) var<storage, read_write> bins: array<u32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let base = w.y * params.classes;
  var value = -3.4e38;
  #{value = max(value, logits[base + min(w.x * PART + #u * THREADS + t, params.classes - 1u)]);}#
  value = row_max(value, t, 0u);
  if (t == 0u) {
    largest[w.y * n.x + w.x] = value;
  }
  for (var i = w.x * THREADS + t; i < PASSES * 512u; i += n.x * THREADS) {
    bins[w.y * PASSES * 512u + i] = 0u;
  }
}
