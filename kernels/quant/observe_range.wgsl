// One look at a batch's range, by an observer that looks for some steps and then keeps what it found. Ranges are [least, largest];
// one whose least is the larger is empty.
struct Params {
  steps: f32, // so many are looked at
  momentum: f32,
}

@group(0) @binding(0) var<storage, read> batch: array<f32>;
@group(0) @binding(1) var<storage, read> step: array<u32>; // counted from 1
@group(0) @binding(2) var<storage, read_write> running: array<f32>;
@group(0) @binding(3) var<storage, read_write> found: array<f32>; // empty while it looks
@group(0) @binding(4) var<storage, read_write> last: array<f32>; // the step that was looked at last
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(1)
fn main() {
  let now = f32(step[0]);
  if (now > params.steps) {
    found[0] = running[0];
    found[1] = running[1];
    return;
  }
  found[0] = 1.0;
  found[1] = -1.0;
  // A block that the backward pass computes again is the same step: its input counts once.
  if (now <= last[0]) {
    return;
  }
  last[0] = now;
  let isFirst = running[0] > running[1];
  for (var i = 0u; i < 2u; i++) {
    let followed = running[i] + params.momentum * (batch[i] - running[i]);
    running[i] = select(followed, batch[i], isFirst);
  }
}
