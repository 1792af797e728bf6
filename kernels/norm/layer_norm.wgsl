// LayerNorm (Ba, Kiros and Hinton, arXiv 1607.06450), row by row: out = x̂ · gain + bias with x̂ = (x − μ) · r and
// r = 1 / √(mean((x − μ)²) + ε). μ and r are kept for the backward pass, in stats [rows, 2].
struct Params { rows: u32, columns: u32, epsilon: f32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> gain: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read_write> stats: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) index: u32) {
  let t = row_lane(index);
  let row = (w.y * n.x + w.x) * ROWS + t.y;
  let columns = select(0u, params.columns, row < params.rows);
  let base = row * params.columns;
  var total = 0.0;
  for (var k = t.x; k < columns; k += LANES) {
    total += x[base + k];
  }
  let mean = row_sum(total, t.x, t.y) / f32(params.columns);
  // A second pass over the row: the mean of squares less the square of the mean would cancel where the mean is large.
  var squares = 0.0;
  for (var k = t.x; k < columns; k += LANES) {
    let own = x[base + k] - mean;
    squares += own * own;
  }
  let variance = row_sum(squares, t.x, t.y) / f32(params.columns);
  let r = 1.0 / sqrt(variance + params.epsilon);
  for (var k = t.x; k < columns; k += LANES) {
    out[base + k] = (x[base + k] - mean) * r * gain[k] + bias[k];
  }
  if (t.x == 0u && row < params.rows) {
    stats[2u * row] = mean;
    stats[2u * row + 1u] = r;
  }
}
