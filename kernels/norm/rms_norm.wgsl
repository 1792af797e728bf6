// RMSNorm (Zhang and Sennrich, arXiv 1910.07467): out = x · r · gain, r = 1 / √(mean(x²) + ε), row by row. r is kept for the
// backward pass.
struct Params { rows: u32, columns: u32, epsilon: f32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> gain: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(0) @binding(3) var<storage, read_write> inverse: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(LANES, ROWS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_id) t: vec3<u32>) {
  let row = (w.y * n.x + w.x) * ROWS + t.y;
  let columns = select(0u, params.columns, row < params.rows);
  let base = row * params.columns;
  var squares = 0.0;
  for (var k = t.x; k < columns; k += LANES) {
    squares += x[base + k] * x[base + k];
  }
  squares = row_sum(squares, t.x, t.y);
  let r = 1.0 / sqrt(squares / f32(params.columns) + params.epsilon);
  for (var k = t.x; k < columns; k += LANES) {
    out[base + k] = x[base + k] * r * gain[k];
  }
  if (t.x == 0u && row < params.rows) {
    inverse[row] = r;
  }
}
