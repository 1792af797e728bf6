// After a token was chosen for every row: writes the tokens down, and sets everything that the next step reads. One workgroup
// walks all rows, so that the counters are read by all before they change.
struct Params { rows: u32, most: u32, ends: u32, pad: i32, seen: i32 }

@group(0) @binding(0) var<storage, read> tokens: array<i32>;
@group(0) @binding(1) var<storage, read> ends: array<i32>;
@group(0) @binding(2) var<storage, read_write> ids: array<i32>;
@group(0) @binding(3) var<storage, read_write> positions: array<i32>;
@group(0) @binding(4) var<storage, read_write> past: array<i32>;
@group(0) @binding(5) var<storage, read_write> state: array<u32>; // seed, step, streams
@group(0) @binding(6) var<storage, read_write> done: array<i32>;
@group(0) @binding(7) var<storage, read_write> out: array<i32>;
@group(0) @binding(8) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) t: u32) {
  let step = state[1];
  for (var row = t; row < params.rows; row += 64u) {
    var token = tokens[row];
    if (done[row] != 0) {
      token = params.pad;
    }
    for (var i = 0u; i < params.ends; i++) {
      if (token == ends[i]) {
        done[row] = 1;
      }
    }
    ids[row] = token;
    positions[row] += 1;
    if (step < params.most) {
      out[step * params.rows + row] = token;
    }
  }
  storageBarrier();
  if (t == 0u) {
    state[1] = step + 1u;
    past[0] += params.seen;
  }
}
