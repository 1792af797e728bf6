/**
 * Attention's backward pass in tiles. Probabilities are computed again from the scores' log sums (Dao et al., "FlashAttention",
 * arXiv 2205.14135), with δ = d out · out:
 *
 *   d v = Σ p · d out,   d score = p · (d out · v − δ),   d q = scale · Σ d score · k,   d k = scale · Σ d score · q
 *
 * One kernel owns blocks of queries and walks keys, the other owns blocks of keys and walks queries: sums have one order, so
 * gradients are the same bytes every time.
 *
 * @module
 */
import { unroll } from "../linear/unroll.ts";
import { type AttentionTile, type Shared, TileWriter } from "./tile.ts";
import { visibleSlots } from "./tile_forward.ts";

const PARAMS_WGSL = `struct Params {
  batch: u32,
  queries: u32, // per row of the batch; as many as keys
  keys: u32,
  heads: u32,
  kv_heads: u32,
  scale: f32,
  kv_group: u32, // query heads that a workgroup of the keys' kernel walks
  first_row: u32, // of the batch
}
`;

const PARAMS = `${PARAMS_WGSL}
@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> d_out: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> positions: array<i32>;
@group(0) @binding(5) var<storage, read> log_sums: array<f32>;
@group(0) @binding(6) var<storage, read> deltas: array<f32>;
@group(0) @binding(7) var<uniform> params: Params;
`;

function queryArrays(tile: TileWriter): Shared[] {
  return [tile.rowArray("row_block", true), tile.columnArray("column_block")];
}

function keyArrays(tile: TileWriter): Shared[] {
  return [
    tile.rowArray("row_block", true),
    tile.columnArray("q_block"),
    tile.columnArray("g_block"),
  ];
}

function keptArrays(tile: TileWriter): { weights: Shared; keys: Shared } {
  return { weights: tile.columnArray("weights", true), keys: tile.columnArray("k_block") };
}

/** Workgroup memory of the queries' kernel in bytes. */
export function queriesBytes(shape: AttentionTile, size: number): number {
  return TileWriter.bytes(queryArrays(new TileWriter(shape, size)));
}

/** Workgroup memory of the keys' kernel in bytes. */
export function keysBytes(shape: AttentionTile, size: number): number {
  return TileWriter.bytes(keyArrays(new TileWriter(shape, size)));
}

/** Places of rows of the inputs, as WGSL, for a workgroup with `head`, `kv_head` and a row of the batch. */
function placesOf(d4: number) {
  const at = (row: string, heads: string, head: string) =>
    `((batch_row * params.keys + ${row}) * ${heads} + ${head}) * ${d4}u`;
  return {
    query: (row: string) => at(row, "params.heads", "head"),
    key: (row: string) => at(row, "params.kv_heads", "kv_head"),
  };
}

/** The pieces in the order in which the second pass wants them: the last is still in memory. */
function lastFirst(pieces: number): number[] {
  return [pieces - 1, ...Array.from({ length: pieces - 1 }, (_, p) => p)];
}

/** Where a block of kept gradients begins, in floats: query and key block of \`head\`, as WGSL. */
function keptAt({ rows, columns }: AttentionTile, query: string, key: string): string {
  return `(((w.y * params.heads + head) * (n.z * (n.z + 1u) / 2u)) + ${query} * (${query} + 1u) / 2u + ${key}) * ${
    rows * columns
  }u`;
}

/** Floats of kept gradients for one head of \`length\` tokens. */
export function keptLength({ rows, columns }: AttentionTile, length: number): number {
  const blocks = Math.ceil(length / rows);
  return blocks * (blocks + 1) / 2 * rows * columns;
}

/** The WGSL of the queries' kernel: one workgroup for each head (x), row of the batch (y) and block of queries (z). */
export function queriesSource(shape: AttentionTile, size: number): string {
  const tile = new TileWriter(shape, size);
  const [rows, columns] = queryArrays(tile);
  const { pieces } = tile;
  const places = placesOf(tile.d4);
  const fillRows = (input: string, p: number) =>
    tile.fill(
      rows,
      shape.rows,
      p,
      "first_query",
      "params.queries",
      (row, c) => `${input}[${places.query(row)} + ${c}]`,
    );
  const fillColumns = (input: string, p: number) =>
    tile.fill(
      columns,
      shape.columns,
      p,
      "key",
      "end",
      (row, c) => `${input}[${places.key(row)} + ${c}]`,
    );
  const product = (to: string, row: string, column: string) =>
    unroll(pieces, (p) =>
      `workgroupBarrier();
    ${fillRows(row, p)}
    ${fillColumns(column, p)}
    workgroupBarrier();
    ${tile.products(to, rows, columns)}`);
  const column = (j: number) => `key + tx + ${j * shape.across}u`;
  return `${PARAMS}
@group(0) @binding(8) var<storage, read_write> d_q: array<vec4<f32>>;
${tile.declare(rows, columns)}

@compute @workgroup_size(${tile.threads})
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  ${tile.prologue}
  let head = w.x;
  let batch_row = params.first_row + w.y;
  let kv_head = head / (params.heads / params.kv_heads);
  let first_query = (n.z - 1u - w.z) * ${shape.rows}u;
  let before = 0u;
  let scale = params.scale * ${Math.LOG2E};
  ${visibleSlots(tile, rows)}
  let stats = (batch_row * params.heads + head) * params.queries;
  ${
    tile.eachRow((i) =>
      `let log_sum${i} = log_sums[stats + query${i}];
  let delta${i} = deltas[stats + query${i}];`
    )
  }
  ${tile.results("sum")}
  for (var key = begin; key < end; key += ${shape.columns}u) {
    ${tile.each((i, j) => `var g${i}_${j} = 0.0;`)}
    ${product("g", "d_out", "v")}
    ${tile.each((i, j) => `var s${i}_${j} = 0.0;`)}
    ${product("s", "q", "k")}
    ${
    tile.each((i, j) =>
      `s${i}_${j} = exp2(s${i}_${j} * scale - log_sum${i}) * (g${i}_${j} - delta${i});`
    )
  }
    if (key < latest || key + ${shape.columns}u > first_query + 1u) {
      ${
    tile.each((i, j) =>
      `s${i}_${j} = select(0.0, s${i}_${j}, ${column(j)} >= first${i} && ${column(j)} <= last${i});`
    )
  }
    }
    workgroupBarrier();
    ${tile.spread("s", rows)}
    ${
    lastFirst(pieces).map((p, n) =>
      `${n > 0 ? `workgroupBarrier();\n${fillColumns("k", p)}` : ""}
    workgroupBarrier();
    ${tile.accumulate(`sum${p}_`, rows, columns)}`
    ).join("\n")
  }
  }
  ${
    tile.store(
      "sum",
      "d_q",
      "first_query",
      "params.queries",
      places.query("row"),
      (_, result) => `${result} * params.scale`,
    )
  }
}
`;
}

/**
 * The WGSL of the queries' kernel where the keys' kernel kept the gradients of scores: one product is left. The blocks must be as
 * large as that kernel's.
 */
export function keptSource(shape: AttentionTile, size: number): string {
  const tile = new TileWriter(shape, size);
  const { weights, keys } = keptArrays(tile);
  const { pieces } = tile;
  const places = placesOf(tile.d4);
  const fill = (p: number) =>
    tile.fill(
      keys,
      shape.columns,
      p,
      "key",
      "params.keys",
      (row, c) => `k[${places.key(row)} + ${c}]`,
    );
  return `${PARAMS_WGSL}
@group(0) @binding(0) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> positions: array<i32>;
@group(0) @binding(2) var<storage, read> kept: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> d_q: array<vec4<f32>>;
@group(0) @binding(4) var<uniform> params: Params;
${tile.declare(weights, keys)}

@compute @workgroup_size(${tile.threads})
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  ${tile.prologue}
  let head = w.x;
  let batch_row = params.first_row + w.y;
  let kv_head = head / (params.heads / params.kv_heads);
  let query_block = n.z - 1u - w.z;
  let first_query = query_block * ${shape.rows}u;
  // Where the first of these queries begins to see: the keys' kernel left no blocks before.
  let begin = first_query - min(u32(positions[batch_row * params.queries + first_query]), first_query);
  ${tile.results("sum")}
  for (var key_block = begin / ${shape.columns}u; key_block <= query_block; key_block++) {
    let key = key_block * ${shape.columns}u;
    let block = ${keptAt(shape, "query_block", "key_block")} / 4u;
    workgroupBarrier();
    ${
    tile.fillWeights(
      weights,
      (column, quad) => `kept[block + ${column} * ${shape.rows / 4}u + ${quad}]`,
    )
  }
    ${
    unroll(pieces, (p) =>
      `${p > 0 ? "workgroupBarrier();" : ""}
    ${fill(p)}
    workgroupBarrier();
    ${tile.accumulate(`sum${p}_`, weights, keys)}`)
  }
  }
  ${
    tile.store(
      "sum",
      "d_q",
      "first_query",
      "params.queries",
      places.query("row"),
      (_, result) => `${result} * params.scale`,
      true,
    )
  }
}
`;
}

/**
 * The WGSL of the keys' kernel: one workgroup for each group of `kv_group` query heads of one key head (x), row of the batch (y)
 * and block of keys (z). It walks the group's heads and the queries that see its keys, in order. Results are
 * [batch, keys, heads / kv_group, D]. With `keep` it also leaves the gradients of scores, for `keptSource`: square blocks of
 * [keys, queries] on and below the diagonal, for each row of this dispatch and each head.
 */
export function keysSource(shape: AttentionTile, size: number, keep: boolean): string {
  const tile = new TileWriter(shape, size);
  const [rows, queries, grads] = keyArrays(tile);
  const { pieces } = tile;
  const places = placesOf(tile.d4);
  const fillRows = (input: string, p: number) =>
    tile.fill(
      rows,
      shape.rows,
      p,
      "first_key",
      "params.keys",
      (row, c) => `${input}[${places.key(row)} + ${c}]`,
    );
  const fillColumns = (array: Shared, input: string, p: number) =>
    tile.fill(
      array,
      shape.columns,
      p,
      "query",
      "params.queries",
      (row, c) => `${input}[${places.query(row)} + ${c}]`,
    );
  const sum = (result: string, array: Shared, input: string) =>
    lastFirst(pieces).map((p, n) =>
      `${n > 0 ? `workgroupBarrier();\n${fillColumns(array, input, p)}` : ""}
      workgroupBarrier();
      ${tile.accumulate(`${result}${p}_`, rows, array)}`
    ).join("\n");
  const product = (to: string, row: string, array: Shared, column: string) =>
    unroll(pieces, (p) =>
      `workgroupBarrier();
      ${fillRows(row, p)}
      ${fillColumns(array, column, p)}
      workgroupBarrier();
      ${tile.products(to, rows, array)}`);
  const at = `((batch_row * params.keys + row) * n.x + w.x) * ${tile.d4}u`;
  return `${PARAMS}
@group(0) @binding(8) var<storage, read_write> d_k: array<vec4<f32>>;
@group(0) @binding(9) var<storage, read_write> d_v: array<vec4<f32>>;
${keep ? "@group(0) @binding(10) var<storage, read_write> kept: array<f32>;" : ""}
${tile.declare(rows, queries, grads)}

@compute @workgroup_size(${tile.threads})
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  ${tile.prologue}
  let first_head = w.x * params.kv_group;
  let batch_row = params.first_row + w.y;
  let kv_head = first_head / (params.heads / params.kv_heads);
  // The first keys are seen by the most queries: they go first.
  let first_key = w.z * ${shape.rows}u;
  let last_key = first_key + ${shape.rows - 1}u;
  let scale = params.scale * ${Math.LOG2E};
  ${tile.results("dk")}
  ${tile.results("dv")}
  for (var head = first_head; head < first_head + params.kv_group; head++) {
    let stats = (batch_row * params.heads + head) * params.queries;
    for (var query = first_key / ${shape.columns}u * ${shape.columns}u; query < params.queries; query += ${shape.columns}u) {
      // A query that begins after these keys belongs to a later sequence, as do all that follow.
      if (query - min(u32(positions[batch_row * params.queries + query]), query) > last_key) {
        break;
      }
      ${tile.each((i, j) => `var s${i}_${j} = 0.0;`)}
      ${product("s", "k", queries, "q")}
      ${tile.each((i, j) => `var g${i}_${j} = 0.0;`)}
      ${product("g", "v", grads, "d_out")}
      ${
    tile.eachColumn((j) =>
      `{
        let last = query + tx + ${j * shape.across}u;
        let own = min(last, params.queries - 1u);
        let first = own - min(u32(positions[batch_row * params.queries + own]), own);
        let log_sum = log_sums[stats + own];
        let delta = deltas[stats + own];
        ${
        tile.eachRow((i) =>
          `{
          let key = first_key + ty + ${i * shape.down}u;
          let p = select(0.0, exp2(s${i}_${j} * scale - log_sum), key >= first && key <= last && last == own);
          s${i}_${j} = p;
          g${i}_${j} = p * (g${i}_${j} - delta);
        }`
        )
      }
      }`
    )
  }
      ${
    keep
      ? `let block = ${keptAt(shape, `query / ${shape.columns}u`, "w.z")};
      ${
        tile.each((i, j) =>
          `kept[block + (ty + ${i * shape.down}u) * ${shape.columns}u + tx + ${
            j * shape.across
          }u] = g${i}_${j};`
        )
      }`
      : ""
  }
      workgroupBarrier();
      ${tile.spread("s", rows)}
      ${sum("dv", grads, "d_out")}
      workgroupBarrier();
      ${tile.spread("g", rows)}
      ${sum("dk", queries, "q")}
    }
  }
  ${tile.store("dk", "d_k", "first_key", "params.keys", at, (_, r) => `${r} * params.scale`)}
  ${tile.store("dv", "d_v", "first_key", "params.keys", at, (_, r) => r)}
}
`;
}
