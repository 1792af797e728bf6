// The norm of each row of W + s·B·A, from ‖W_i‖², P = A·Wᵀ and Q = B·(A·Aᵀ):
//   ‖W_i + s·B_i·A‖² = ‖W_i‖² + 2s·B_i·P_i + s²·B_i·Q_i
struct Params { rows: u32, rank: u32, scaling: f32 }

@group(0) @binding(0) var<storage, read> squares: array<f32>;
@group(0) @binding(1) var<storage, read> p: array<f32>;
@group(0) @binding(2) var<storage, read> q: array<f32>;
@group(0) @binding(3) var<storage, read> b: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let row = (w.y * n.x + w.x) * 64u + t;
  if (row >= params.rows) {
    return;
  }
  let s = params.scaling;
  var change = 0.0;
  for (var j = 0u; j < params.rank; j++) {
    let at = row * params.rank + j;
    change += b[at] * (2.0 * p[j * params.rows + row] + s * q[at]);
  }
  // A row of zeros has no direction; with a floor its quotients are 0 instead of NaN.
  out[row] = sqrt(max(squares[row] + s * change, 1e-30));
}
