/**
 * Attention of a few queries over a key/value cache: the slots are divided among workgroups, and their sums put together
 * afterwards (as in "Flash-Decoding", Dao et al. 2023). How many slots are filled is known on the device only: workgroups that
 * find none end at once.
 *
 * @module
 */
import { unroll } from "../linear/unroll.ts";

/** Sizes that are baked into the decoding kernels. */
export interface DecodeShape {
  /** Elements of a head. */
  readonly size: number;
  /** Query heads of a workgroup; they share a key head. */
  readonly heads: number;
  /** About so many threads are in a workgroup: whole rows of vectors. */
  readonly threads: number;
  /** Slots that a thread loads at a time. */
  readonly perThread: number;
  /** Whether the slots of a query are divided among workgroups. */
  readonly split: boolean;
  /** What happens to a new token before its query looks: nothing, its key and value go into the cache, or they and the query are turned first. */
  readonly before: "nothing" | "append" | "rope";
}

/** Vectors of a head, rows of threads, slots of a workgroup's chunk. */
export function decodeLengths(
  { size, perThread, threads: most }: Pick<DecodeShape, "size" | "perThread" | "threads">,
) {
  const d4 = size / 4;
  const fitting = Math.max(1, Math.floor(most / d4));
  const rows = fitting > ROUND ? fitting - fitting % ROUND : fitting;
  return { d4, rows, threads: d4 * rows, chunk: rows * perThread };
}

/** Workgroup memory of the decoding kernel in bytes. */
export function decodeBytes(shape: DecodeShape): number {
  const { d4, rows, chunk } = decodeLengths(shape);
  return 4 * shape.heads * (chunk * (d4 + 2) + rows * (4 * d4 + 2));
}

const PARAMS = `struct Params {
  queries: u32, // per row of the batch
  keys: u32,
  heads: u32,
  kv_heads: u32,
  splits: u32,
  scale: f32,
}
`;

const READ = "var<storage, read>";
const WRITE = "var<storage, read_write>";

/** The bindings of the decoding kernel. */
function declarations({ before, split }: DecodeShape): string {
  const cache = before === "nothing" ? READ : WRITE;
  return [
    `${READ} q: array<vec4<f32>>`,
    `${READ} positions: array<i32>`,
    `${READ} past: array<i32>`,
    `${cache} k: array<vec4<f32>>`,
    `${cache} v: array<vec4<f32>>`,
    `${WRITE} out: array<vec4<f32>>`,
    "var<uniform> params: Params",
    ...split ? [`${WRITE} stats: array<vec2<f32>>`] : [],
    ...before === "nothing"
      ? []
      : [`${READ} new_k: array<vec4<f32>>`, `${READ} new_v: array<vec4<f32>>`],
    ...before === "rope" ? [`${READ} angles: array<vec4<f32>>`] : [],
  ].map((declaration, binding) => `@group(0) @binding(${binding}) ${declaration};`).join("\n");
}

/** The chunks of slots that query `w.z` sees: `first` to `last`, from chunk `first_chunk` on. */
function visible(chunk: number): string {
  return `let row = w.z / params.queries;
  let before = u32(past[0]) + w.z % params.queries;
  let last = min(before, params.keys - 1u);
  let first = before - min(u32(positions[w.z]), before);
  let first_chunk = first / ${chunk}u;
  let chunks = last / ${chunk}u + 1u - first_chunk;`;
}

/** The `largest` maximum of parts `first` to `first + count`, and their `total` and `sum` for vector `c`, as WGSL. */
function combineParts(count: number, first: string, d4: number): string {
  return `var largest = parts[${first}].x;
    ${unroll(count - 1, (r) => `largest = max(largest, parts[${first} + ${r + 1}u].x);`)}
    var total = 0.0;
    var sum = vec4<f32>();
    ${
    unroll(count, (r) =>
      `{
      let part = parts[${first} + ${r}u];
      let weight = exp2(part.x - largest);
      total += part.y * weight;
      sum += sums[(${first} + ${r}u) * ${d4}u + c] * weight;
    }`)
  }`;
}

/** Rows that one thread puts together: with more, it is done in two rounds. */
const ROUND = 8;

/**
 * Puts together sums over different slots: `parts` holds (maximum, sum of weights) and `sums` the weighted values, of each head
 * and row of threads. `use` gets head `h`, vector `c`, `largest`, `total` and `sum`.
 */
function combineRows(heads: number, rows: number, d4: number, use: string): string {
  const last = rows > ROUND ? rows / ROUND : rows;
  const round = `{
    let c = t % ${d4}u;
    let own = t < ${heads * d4 * last}u;
    let group = select(0u, t / ${d4}u, own);
    ${combineParts(ROUND, `group * ${ROUND}u`, d4)}
    workgroupBarrier();
    if (own) {
      if (c == 0u) {
        parts[group] = vec2<f32>(largest, total);
      }
      sums[t] = sum;
    }
  }`;
  return `workgroupBarrier();
  ${last < rows ? `${round}\n  workgroupBarrier();` : ""}
  for (var i = t; i < ${heads * d4}u; i += ${d4 * rows}u) {
    let h = i / ${d4}u;
    let c = i % ${d4}u;
    ${combineParts(last, `h * ${last}u`, d4)}
    ${use}
  }`;
}

/**
 * The WGSL of the decoding kernel: workgroups for each part of the slots (x), group of query heads (y) and query (z). With
 * `split` it leaves maxima, sums of weights and weighted sums, [batch · queries, heads, splits].
 */
export function decodeSource(shape: DecodeShape): string {
  const { heads, perThread, split } = shape;
  const { d4, rows, threads, chunk } = decodeLengths(shape);
  const own = shape.before !== "nothing";
  const write = split
    ? `let at = (w.z * params.heads + first_head + h) * params.splits + w.x;
    out[at * ${d4}u + c] = sum;
    if (c == 0u) {
      stats[at] = vec2<f32>(largest, total);
    }`
    : `out[(w.z * params.heads + first_head + h) * ${d4}u + c] = sum / total;`;
  // Element j of a head is turned together with element j + D / 2.
  const half = d4 / 2;
  const turned = (name: string, at: string) =>
    shape.before === "rope"
      ? `(${name}[${at} + c] * cosine + ${name}[${at} + pair] * sine)`
      : `${name}[${at} + c]`;
  const angle = `let pair = select(c - ${half}u, c + ${half}u, c < ${half}u);
  let angle = u32(positions[w.z]) * ${d4}u + c % ${half}u;
  let cosine = angles[angle];
  let sine = angles[angle + ${half}u] * select(1.0, -1.0, c < ${half}u);`;
  const before = `${shape.before === "rope" ? angle : ""}
  ${
    own
      ? `let own_at = (w.z * params.kv_heads + kv_head) * ${d4}u;
  let own_k = ${turned("new_k", "own_at")};
  let own_v = new_v[own_at + c];`
      : ""
  }`;
  const eachSlot = (line: (u: number) => string) => unroll(perThread, line);
  const eachHead = (line: (h: number) => string) => unroll(heads, line);
  return `${PARAMS}
${declarations(shape)}
var<workgroup> products: array<f32, ${heads * chunk * (d4 + 1)}>;
var<workgroup> scores: array<f32, ${heads * chunk}>;
var<workgroup> parts: array<vec2<f32>, ${heads * rows}>;
var<workgroup> sums: array<vec4<f32>, ${heads * threads}>;

@compute @workgroup_size(${threads})
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  ${visible(chunk)}
  if (w.x >= min(chunks, params.splits)) {
    ${
    split
      ? `if (t < ${heads}u) {
      stats[(w.z * params.heads + w.y * ${heads}u + t) * params.splits + w.x] = vec2<f32>(-3e38, 0.0);
    }`
      : ""
  }
    return;
  }
  let c = t % ${d4}u;
  let r = t / ${d4}u;
  let first_head = w.y * ${heads}u;
  let kv_head = first_head / (params.heads / params.kv_heads);
  ${before}
  ${
    eachHead((h) =>
      `let q_at${h} = (w.z * params.heads + first_head + ${h}u) * ${d4}u;
  let q${h} = ${turned("q", `q_at${h}`)} * (params.scale * ${Math.LOG2E});
  var m${h} = -3e38;
  var l${h} = 0.0;
  var o${h} = vec4<f32>();`
    )
  }
  for (var n = w.x; n < chunks; n += params.splits) {
    let slot = (first_chunk + n) * ${chunk}u;
    // All loads first, so that they are in flight together.
    ${
    eachSlot((u) =>
      `let slot${u} = slot + r + ${u * rows}u;
    let seen${u} = slot${u} >= first && slot${u} <= last;
    let at${u} = ((row * params.keys + min(slot${u}, last)) * params.kv_heads + kv_head) * ${d4}u + c;
    var k${u} = k[at${u}];
    var v${u} = select(vec4<f32>(), v[at${u}], seen${u});`
    )
  }
    ${
    own
      ? eachSlot((u) =>
        `if (slot${u} == before && before == last) {
      k${u} = own_k;
      v${u} = own_v;
      if (first_head % (params.heads / params.kv_heads) == 0u) {
        k[at${u}] = own_k;
        v[at${u}] = own_v;
      }
    }`
      )
      : ""
  }
    ${
    eachSlot((u) =>
      eachHead((h) =>
        `products[(${h * chunk + u * rows}u + r) * ${d4 + 1}u + c] = dot(q${h}, k${u});`
      )
    )
  }
    workgroupBarrier();
    for (var i = t; i < ${heads * chunk}u; i += ${threads}u) {
      var score = 0.0;
      ${unroll(d4, (e) => `score += products[i * ${d4 + 1}u + ${e}u];`)}
      let own = slot + i % ${chunk}u;
      scores[i] = select(-3e38, score, own >= first && own <= last);
    }
    workgroupBarrier();
    ${
    eachHead((h) =>
      `{
      ${eachSlot((u) => `let s${u} = scores[${h * chunk + u * rows}u + r];`)}
      var next = m${h};
      ${eachSlot((u) => `next = max(next, s${u});`)}
      let shrink = exp2(m${h} - next);
      m${h} = next;
      l${h} *= shrink;
      o${h} *= shrink;
      ${
        eachSlot((u) =>
          `{
        let p = exp2(s${u} - next);
        l${h} += p;
        o${h} += p * v${u};
      }`
        )
      }
    }`
    )
  }
  }
  ${
    eachHead((h) =>
      `if (c == 0u) {
    parts[${h * rows}u + r] = vec2<f32>(m${h}, l${h});
  }
  sums[(${h * rows}u + r) * ${d4}u + c] = o${h};`
    )
  }
  ${combineRows(heads, rows, d4, write)}
}
`;
}

/** The WGSL that puts the parts of \`decodeSource\` together: one workgroup for each query head (x) and query (z). */
export function combineSource(shape: Pick<DecodeShape, "size" | "perThread" | "threads">): string {
  const { d4, rows, threads } = decodeLengths(shape);
  return `${PARAMS}
@group(0) @binding(0) var<storage, read> partial: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> params: Params;
var<workgroup> parts: array<vec2<f32>, ${rows}>;
var<workgroup> sums: array<vec4<f32>, ${threads}>;

@compute @workgroup_size(${threads})
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let own_head = w.z * params.heads + w.x;
  let own_c = t % ${d4}u;
  let own_r = t / ${d4}u;
  var m = -3e38;
  var l = 0.0;
  var o = vec4<f32>();
  for (var n = own_r; n < params.splits; n += ${rows}u) {
    let at = own_head * params.splits + n;
    let part = stats[at];
    // A workgroup without slots left no sum.
    let value = select(vec4<f32>(), partial[at * ${d4}u + own_c], part.y > 0.0);
    let next = max(m, part.x);
    let shrink = exp2(m - next);
    let weight = exp2(part.x - next);
    m = next;
    l = l * shrink + part.y * weight;
    o = o * shrink + value * weight;
  }
  if (own_c == 0u) {
    parts[own_r] = vec2<f32>(m, l);
  }
  sums[own_r * ${d4}u + own_c] = o;
  ${combineRows(1, rows, d4, `out[own_head * ${d4}u + c] = sum / total;`)}
}
`;
}
