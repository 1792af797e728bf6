// The tiles that were computed in parts: c = α · (the sum of a tile's parts, in their order) (+ d).
@group(0) @binding(0) var<storage, read> parts: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> c: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> p: Tiled;
@group(0) @binding(3) var<storage, read> d: array<vec4<f32>>;

// One invocation for each vector of a tile, in chunks of a workgroup; tiles one after another.
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let quads = p.columns / 4u;
  let size = p.rows * quads;
  let i = (w.y * groups.x + w.x) * 256u + t;
  let tile = i / size;
  let own = i % size;
  let place = place_of(p.whole + tile, p.rows, p.columns);
  let row = place.first_row + own / quads;
  let column = place.first_column / 4u + own % quads;
  if (place.which >= p.batch || row >= p.m || column >= p.n / 4u) {
    return;
  }
  var at = tile * p.splits * size + own;
  var total = vec4<f32>();
  var s = 0u;
  for (; s + 4u <= p.splits; s += 4u) {
    let x0 = parts[at];
    let x1 = parts[at + size];
    let x2 = parts[at + 2u * size];
    let x3 = parts[at + 3u * size];
    total = (((total + x0) + x1) + x2) + x3;
    at += 4u * size;
  }
  for (; s < p.splits; s++) {
    total += parts[at];
    at += size;
  }
  let to = place.which * (p.c_stride / 4u) + row * (p.n / 4u) + column;
  var value = p.alpha * total;
  if (p.add != 0u) {
    value += d[to];
  }
  c[to] = value;
}
