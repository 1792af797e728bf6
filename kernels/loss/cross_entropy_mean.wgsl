// The mean of the losses of rows whose target counts: out[0] = Σ losses / count, out[1] = 1 / count. The count is given (the
// label tokens of a whole step, of which this may be a part), or it is the number of targets that are not −100.
struct Params { rows: u32, count_given: u32 }

@group(0) @binding(0) var<storage, read> losses: array<f32>;
@group(0) @binding(1) var<storage, read> targets: array<i32>;
@group(0) @binding(2) var<storage, read> given: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read_write> inverse: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(local_invocation_index) index: u32) {
  let t = row_lane(index);
  var total = 0.0;
  var count = 0.0;
  for (var k = t.x; k < params.rows; k += LANES) {
    total += losses[k];
    count += select(0.0, 1.0, targets[k] >= 0);
  }
  total = row_sum(total, t.x, t.y);
  count = row_sum(count, t.x, t.y);
  if (params.count_given == 1u) {
    count = given[0];
  }
  if (t.x == 0u) {
    let one_over = select(0.0, 1.0 / count, count > 0.0);
    out[0] = total * one_over;
    inverse[0] = one_over;
  }
}
