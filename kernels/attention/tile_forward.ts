/**
 * Attention's forward pass in tiles: a workgroup owns a block of one head's queries and walks the blocks of keys that any of them
 * sees, with a running maximum (Dao et al., "FlashAttention", arXiv 2205.14135).
 *
 * @module
 */
import { unroll } from "../linear/unroll.ts";
import { type AttentionTile, type Shared, TileWriter } from "./tile.ts";

/** Bindings and parameters of all tiled kernels' inputs. */
const PARAMS = `struct Params {
  batch: u32,
  queries: u32,
  keys: u32,
  heads: u32,
  kv_heads: u32,
  scale: f32,
}
`;

/** Scores that no query sees. Finite, so that differences of two of them are 0, not NaN. */
const UNSEEN = "-3e38";

/** The arrays of the forward kernel. */
function arrays(tile: TileWriter): { rows: Shared; keys: Shared; values: Shared } {
  return {
    rows: tile.rowArray("q_block"),
    keys: tile.columnArray("k_block", true),
    values: tile.columnArray("v_block"),
  };
}

/** Workgroup memory of the forward kernel in bytes. */
export function forwardBytes(shape: AttentionTile, size: number, subgroups: boolean): number {
  const { rows, keys, values } = arrays(new TileWriter(shape, size));
  const reduce = subgroups ? 0 : 4 * shape.rows * shape.across;
  return TileWriter.bytes([rows, keys, values]) + reduce;
}

/** Combines `{name}{i}` over the threads of each row; all of them get the result. */
export function rowReduction(
  tile: TileWriter,
  name: string,
  combine: (x: string, y: string) => string,
  subgroups: boolean,
): string {
  const { across, down } = tile.tile;
  if (subgroups) {
    const steps = Array.from({ length: Math.log2(across) }, (_, n) => across >> (n + 1));
    return steps.map((step) =>
      tile.eachRow((i) =>
        `${name}${i} = ${combine(`${name}${i}`, `subgroupShuffleXor(${name}${i}, ${step}u)`)};`
      )
    ).join("\n");
  }
  const at = (i: number, x: string) => `reduce[(ty + ${i * down}u) * ${across}u + ${x}]`;
  return `workgroupBarrier();
  ${tile.eachRow((i) => `${at(i, "tx")} = ${name}${i};`)}
  workgroupBarrier();
  ${
    tile.eachRow((i) =>
      `${name}${i} = ${at(i, "0u")};
  for (var x = 1u; x < ${across}u; x++) { ${name}${i} = ${combine(`${name}${i}`, at(i, "x"))}; }`
    )
  }`;
}

/**
 * The slots that the thread's rows see, `first{i}` to `last{i}`, and for the whole block the uniform `begin` (the first block of
 * keys that any row sees), `latest` (the last slot at which a row begins to see) and `end` (one past the last slot). The threads
 * tell each other through an array that is not filled yet.
 */
export function visibleSlots(tile: TileWriter, array: Shared): string {
  const { rows, columns, down } = tile.tile;
  const each = (op: string) =>
    Array.from({ length: tile.threadRows }, (_, i) => `first${i}`).reduce((x, y) =>
      `${op}(${x}, ${y})`
    );
  return `let end = min(before + min(first_query + ${rows}u, params.queries), params.keys);
  ${
    tile.eachRow((i) =>
      `let query${i} = min(first_query + ty + ${i * down}u, params.queries - 1u);
  let last${i} = before + query${i};
  let first${i} = last${i} - min(u32(positions[batch_row * params.queries + query${i}]), last${i});`
    )
  }
  if (tx == 0u) {
    ${array.name}[0][ty] = vec4<f32>(f32(${each("min")}), f32(${each("max")}), 0.0, 0.0);
  }
  workgroupBarrier();
  if (t == 0u) {
    var seen = ${array.name}[0][0];
    ${
    unroll(down - 1, (y) =>
      `seen = vec4<f32>(min(seen.x, ${array.name}[0][${y + 1}].x), max(seen.y, ${array.name}[0][${
        y + 1
      }].y), 0.0, 0.0);`)
  }
    ${array.name}[0][0] = seen;
  }
  let block = workgroupUniformLoad(&${array.name}[0][0]);
  let begin = u32(block.x) / ${columns}u * ${columns}u;
  let latest = u32(block.y);`;
}

/** The WGSL of the forward kernel: one workgroup for each head (x), row of the batch (y) and block of queries (z). */
export function forwardSource(shape: AttentionTile, size: number, subgroups: boolean): string {
  const tile = new TileWriter(shape, size);
  const { rows, keys, values } = arrays(tile);
  const { pieces, d4 } = tile;
  const at = (row: string, count: string, heads: string, head: string) =>
    `((batch_row * ${count} + ${row}) * ${heads} + ${head}) * ${d4}u`;
  const queryAt = (row: string) => at(row, "params.queries", "params.heads", "head");
  const keyAt = (row: string) => at(row, "params.keys", "params.kv_heads", "kv_head");
  const fillQ = (p: number) =>
    tile.fill(
      rows,
      shape.rows,
      p,
      "first_query",
      "params.queries",
      (row, c) => `q[${queryAt(row)} + ${c}] * scale`,
    );
  const fillK = (p: number) =>
    tile.fill(keys, shape.columns, p, "key", "end", (row, c) => `k[${keyAt(row)} + ${c}]`);
  const fillV = (p: number) =>
    tile.fill(values, shape.columns, p, "key", "end", (row, c) => `v[${keyAt(row)} + ${c}]`);
  const column = (j: number) => `key + tx + ${j * shape.across}u`;
  const mine = (i: number, op: (x: string, y: string) => string) =>
    Array.from({ length: tile.threadColumns }, (_, j) => `s${i}_${j}`).reduce(op);
  const max = (x: string, y: string) => `max(${x}, ${y})`;
  const add = (x: string, y: string) => `${x} + ${y}`;
  return `${PARAMS}
@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> positions: array<i32>;
@group(0) @binding(4) var<storage, read> past: array<i32>;
@group(0) @binding(5) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> log_sums: array<f32>; // base 2, [batch, heads, queries]
@group(0) @binding(7) var<uniform> params: Params;
${tile.declare(rows, keys, values)}
${subgroups ? "" : `var<workgroup> reduce: array<f32, ${shape.rows * shape.across}>;`}

@compute @workgroup_size(${tile.threads})
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  ${tile.prologue}
  let head = w.x;
  let batch_row = w.y;
  let kv_head = head / (params.heads / params.kv_heads);
  // The last queries see the most keys: they go first.
  let first_query = (n.z - 1u - w.z) * ${shape.rows}u;
  let before = u32(past[0]);
  let scale = params.scale * ${Math.LOG2E};
  ${visibleSlots(tile, keys)}
  ${tile.eachRow((i) => `var m${i} = ${UNSEEN};\n  var l${i} = 0.0;`)}
  ${tile.results("o")}
  ${pieces === 1 ? fillQ(0) : ""}
  for (var key = begin; key < end; key += ${shape.columns}u) {
    ${tile.each((i, j) => `var s${i}_${j} = 0.0;`)}
    ${
    unroll(pieces, (p) =>
      `workgroupBarrier();
    ${pieces > 1 ? fillQ(p) : ""}
    ${fillK(p)}
    ${p === 0 ? fillV(0) : ""}
    workgroupBarrier();
    ${tile.products("s", rows, keys)}`)
  }
    if (key < latest || key + ${shape.columns}u > before + first_query + 1u) {
      ${
    tile.each((i, j) =>
      `s${i}_${j} = select(${UNSEEN}, s${i}_${j}, ${column(j)} >= first${i} && ${
        column(j)
      } <= last${i});`
    )
  }
    }
    ${tile.eachRow((i) => `var n${i} = ${mine(i, max)};`)}
    ${rowReduction(tile, "n", max, subgroups)}
    ${
    tile.eachRow((i) =>
      `n${i} = max(n${i}, m${i});
    let shrink${i} = exp2(m${i} - n${i});
    m${i} = n${i};
    ${tile.eachColumn((j) => `s${i}_${j} = exp2(s${i}_${j} - n${i});`)}
    l${i} = fma(l${i}, shrink${i}, ${mine(i, add)});`
    )
  }
    ${tile.eachResult((p, i, h) => `o${p}_${i}_${h} *= shrink${i};`)}
    workgroupBarrier();
    ${tile.spread("s", keys)}
    ${
    unroll(pieces, (p) =>
      `${p > 0 ? `workgroupBarrier();\n${fillV(p)}` : ""}
    workgroupBarrier();
    ${tile.accumulate(`o${p}_`, keys, values)}`)
  }
  }
  ${rowReduction(tile, "l", add, subgroups)}
  ${
    tile.store(
      "o",
      "out",
      "first_query",
      "params.queries",
      queryAt("row"),
      (i, result) => `${result} / l${i}`,
    )
  }
  if (tx == 0u) {
    ${
    tile.eachRow((i) =>
      `if (first_query + ty + ${i * shape.down}u < params.queries) {
      log_sums[(batch_row * params.heads + head) * params.queries + query${i}] = m${i} + log2(l${i});
    }`
    )
  }
  }
}
`;
}
