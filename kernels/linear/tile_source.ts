/**
 * The WGSL of a tiled product. Everything is unrolled in the source, so that stages, steps and accumulators have literal names;
 * lengths are parameters, so that one pipeline serves all of them.
 *
 * @module
 */
import { HALVES_WGSL } from "./halves.ts";
import type { Layout } from "./product.ts";
import {
  denseOperand,
  type Operand,
  type OperandSide,
  readShared,
  sharedArray,
} from "./tile_operand.ts";
import { unroll } from "./unroll.ts";

/** How a workgroup computes its tile. */
export interface TileShape {
  /** The tile's rows, columns and depth. */
  readonly rows: number;
  readonly columns: number;
  readonly depth: number;
  /** The rows and columns of one thread, multiples of four. */
  readonly threadRows: number;
  readonly threadColumns: number;
  /**
   * Depths that a loop iteration takes. With 1 there is one copy of the operands in workgroup memory; else there are two, and the
   * next depth is stored while this one is multiplied.
   */
  readonly turn: 1 | 2 | 4;
  /** Whether transposed operands are loaded four rows at a time, and transposed in registers. */
  readonly quads: boolean;
  /** Groups of threads that each compute the whole tile over a part of K; at the end their sums are added in order. */
  readonly slices: number;
}

/** Threads of a slice. */
function threadsOf({ rows, columns, threadRows, threadColumns }: TileShape): number {
  return rows / threadRows * columns / threadColumns;
}

/** Copies of the operands in workgroup memory that a slice has. */
function stagesOf({ turn }: TileShape): 1 | 2 {
  return turn === 1 ? 1 : 2;
}

/** Bytes of workgroup memory that a tile takes. */
export function memoryOf(shape: TileShape): number {
  const { rows, columns, depth, slices } = shape;
  return 4 * (slices * stagesOf(shape) * (rows + columns) * depth + (slices - 1) * rows * columns);
}

/** What is multiplied: the right operand may come from other sources than floats. */
export interface RightOperand {
  /** Tells kernels apart: "f32", "f16", "nf4". */
  readonly kind: string;
  /** Whether it is a weight in few bits, decoded on its way. */
  readonly packed: boolean;
  /** Declares its bindings from this number on. */
  declare(firstBinding: number): string;
  /** A statement at the start of the kernel, with a barrier of its own if it needs one. */
  readonly prepare: string;
  /** How many steps along K one loaded unit covers: 4 floats, 8 codes. */
  readonly perWord: 4 | 8;
  load(side: OperandSide): Operand;
}

const floats = (aligned: boolean) => aligned ? "array<vec4<f32>>" : "array<f32>";

function denseRight(aligned: boolean): RightOperand {
  return {
    kind: aligned ? "f32" : "f32 unaligned",
    packed: false,
    declare: (binding) =>
      `@group(0) @binding(${binding}) var<storage, read> b: ${floats(aligned)};`,
    prepare: "",
    perWord: 4,
    load: (side) => denseOperand({ ...side, aligned }),
  };
}

/** B as floats. */
export const DENSE: RightOperand = denseRight(true);

/** B as halves, in rows that are multiples of four. */
export const HALVES: RightOperand = {
  ...DENSE,
  kind: "f16",
  declare: (binding) =>
    `@group(0) @binding(${binding}) var<storage, read> b: array<vec2<u32>>;${HALVES_WGSL}`,
  load: (side) => denseOperand({ ...side, halves: true }),
};

/** B as floats, in rows that are not multiples of four. */
export const DENSE_UNALIGNED: RightOperand = denseRight(false);

/**
 * The parameters of a tiled product. The first `whole` tiles are computed by one workgroup each; each of the others by `splits`
 * workgroups, which sum over `chunk` steps along K, and leave their sums in `parts`. The tile's own `rows` and `columns` are for the
 * kernel that adds them: one serves all tiles.
 */
export const TILED_WGSL = `
struct Tiled {
  m: u32, n: u32, k: u32, batch: u32,
  a_stride: u32, b_stride: u32, c_stride: u32, alpha: f32,
  whole: u32, splits: u32, chunk: u32, add: u32,
  rows: u32, columns: u32,
}
struct Place { which: u32, first_row: u32, first_column: u32 }

/** Where a tile lies: matrix by matrix, in bands of eight tile rows, so that workgroups at work together share operands. */
fn place_of(tile: u32, rows: u32, columns: u32) -> Place {
  let across = (p.n + columns - 1u) / columns;
  let down = (p.m + rows - 1u) / rows;
  let own = tile % (across * down);
  let band = own / (8u * across);
  let height = min(8u, down - 8u * band);
  let rest = own - 8u * band * across;
  return Place(
    tile / (across * down),
    (8u * band + rest % height) * rows,
    rest / height * columns,
  );
}
`;

const XYZW = "xyzw";

/** The multiplications of one depth: registers from workgroup memory, then every row times every column. */
function innerProduct(a: OperandSide, b: OperandSide, right: RightOperand, shape: TileShape) {
  const fmas = unroll(
    shape.threadRows,
    (i) =>
      unroll(
        b.groups,
        (h) => `c${i}_${h} = fma(vec4<f32>(x${i >> 2}.${XYZW[i & 3]}), y${h}, c${i}_${h});`,
      ),
  );
  return (stage: number) =>
    unroll(shape.depth, (kk) =>
      `{
${unroll(a.groups, (g) => `let x${g} = ${readShared(a, stage, kk, g, "ty")};`)}
${unroll(b.groups, (h) => `let y${h} = ${readShared(b, stage, kk, h, "tx", right.perWord)};`)}
${fmas}
}`);
}

/** The loop along K: loads for the next depth are under way while this one is multiplied. */
function loop(
  { depth, turn, slices }: TileShape,
  loadAt: (k: string) => string,
  store: (stage: number) => string,
  inner: (stage: number) => string,
): string {
  const guarded = (k: string, body: string) => `if (${k} < k_end) {\n${body}\n}`;
  const step = slices * turn * depth;
  // A slice takes its turn of each step; a loop that all of them run has barriers in it.
  const load = (k: string) => loadAt(slices === 1 ? k : `(${k} + slice * ${turn * depth}u)`);
  const after = (i: number) => `(k + ${i === turn - 1 ? step : (i + 1) * depth}u)`;
  const head = `for (var k = k_first; k < k_end; k += ${step}u)`;
  if (turn === 1) {
    return `
  ${load("k_first")}
  ${head} {
    ${store(0)}
    workgroupBarrier();
    ${guarded(after(0), load(after(0)))}
    ${inner(0)}
    workgroupBarrier();
  }`;
  }
  const one = (i: number) => {
    const when = i === turn - 1 ? guarded : (_: string, body: string) => body;
    return `
    ${when(after(i), load(after(i)))}
    ${inner(i & 1)}
    ${when(after(i), store(i + 1 & 1))}
    workgroupBarrier();`;
  };
  return `
  ${load("k_first")}
  ${store(0)}
  workgroupBarrier();
  ${head} {
    ${unroll(turn, one)}
  }`;
}

/** The results of a thread: to their places, or as partial sums. */
function epilogue(
  shape: TileShape,
  across: number,
  down: number,
  { split, alignedC }: TileOptions,
): string {
  const row = (i: number) => `4u * (ty + ${(i >> 2) * down}u) + ${i & 3}u`;
  const column = (h: number) => `tx + ${h * across}u`;
  const each = (line: (i: number, h: number) => string) =>
    unroll(shape.threadRows, (i) => unroll(shape.threadColumns / 4, (h) => line(i, h)));
  const parts = `
  if (unit >= p.whole) {
    let part = (unit - p.whole) * ${shape.rows * shape.columns / 4}u;
    ${
    each((i, h) => `parts[part + (${row(i)}) * ${shape.columns / 4}u + ${column(h)}] = c${i}_${h};`)
  }
    return;
  }`;
  // What is added is loaded all at once: after a store, a load would wait for its turn.
  const inPlace = (line: (c: string, at: string) => string) =>
    each((i, h) => {
      const c = `c${i}_${h}`;
      const lines = alignedC
        ? `if (row < p.m && column < p.n) { ${line(c, "at / 4u")} }`
        : unroll(4, (j) => {
          const own = line(`${c}.${XYZW[j]}`, `at + ${j}u`);
          return `if (row < p.m && column + ${j}u < p.n) { ${own} }`;
        });
      return `{
    let row = place.first_row + ${row(i)};
    let column = 4u * (place.first_column / 4u + ${column(h)});
    let at = place.which * p.c_stride + row * p.n + column;
    ${lines}
  }`;
    });
  return `${split ? parts : ""}
  ${each((i, h) => `c${i}_${h} *= p.alpha;`)}
  if (p.add != 0u) {
    ${inPlace((c, at) => `${c} += d[${at}];`)}
  }
  ${inPlace((c, at) => `c[${at}] = ${c};`)}`;
}

/** Adds what the slices summed, in their order; the first goes on. */
function sumSlices(shape: TileShape): { declare: string; code: string } {
  const { threadRows, threadColumns, slices } = shape;
  if (slices === 1) return { declare: "", code: "" };
  const threads = threadsOf(shape);
  const across = threadColumns / 4;
  const each = (line: (c: string, at: number) => string) =>
    unroll(threadRows, (i) => unroll(across, (h) => line(`c${i}_${h}`, i * across + h)));
  return {
    declare: `var<workgroup> sums: array<array<vec4<f32>, ${threads}>, ${
      (slices - 1) * threadRows * across
    }>;`,
    code: `
  if (slice > 0u) {
    let first = (slice - 1u) * ${threadRows * across}u;
    ${each((c, at) => `sums[first + ${at}u][t] = ${c};`)}
  }
  workgroupBarrier();
  if (slice > 0u) {
    return;
  }
  ${
      unroll(slices - 1, (s) =>
        each((c, at) => `${c} += sums[${s * threadRows * across + at}u][t];`))
    }`,
  };
}

/** What a kernel is made for, besides its tile. */
export interface TileOptions {
  /** Whether some tiles are computed in parts: the kernel then has a last binding for them. */
  readonly split: boolean;
  /** Whether K is not a multiple of what a loop iteration takes. */
  readonly ragged: boolean;
  /** Whether the rows of A and of the result are multiples of four floats. */
  readonly alignedA: boolean;
  readonly alignedC: boolean;
}

/** The WGSL of a tiled product. */
export function tileSource(
  layout: Layout,
  shape: TileShape,
  right: RightOperand,
  options: TileOptions,
): string {
  const { split, ragged, alignedA, alignedC } = options;
  const { rows, columns, depth, threadRows, threadColumns, quads, slices } = shape;
  const across = columns / threadColumns;
  const down = rows / threadRows;
  const threads = threadsOf(shape);
  const common = {
    depth,
    stages: stagesOf(shape),
    slices,
    allThreads: threads,
    ragged,
    quads,
    aligned: true,
  } as const;
  const aSide: OperandSide = {
    ...common,
    name: "a",
    aligned: alignedA,
    width: rows,
    threads: down,
    groups: threadRows / 4,
    first: "place.first_row",
    length: "p.m",
    transposed: layout !== "tn",
  };
  const bSide: OperandSide = {
    ...common,
    name: "b",
    width: columns,
    threads: across,
    groups: threadColumns / 4,
    first: "place.first_column",
    length: "p.n",
    transposed: layout === "nt",
  };
  const a = denseOperand(aSide);
  const b = right.load(bSide);
  const bindingsOfB = right.declare(1);
  const next = 1 + (bindingsOfB.match(/@binding/g)?.length ?? 1);
  // A warp covers 8 threads across and 4 down, where the tile allows: fewer different rows and columns per load.
  const warped = across % 8 === 0 && down % 4 === 0;
  const body = loop(
    shape,
    (k) => `${a.load(k)}\n${b.load(k)}`,
    (stage) => `${a.store(stage)}\n${b.store(stage)}`,
    innerProduct(aSide, bSide, right, shape),
  );
  const sums = sumSlices(shape);
  return `${TILED_WGSL}
@group(0) @binding(0) var<storage, read> a: ${floats(alignedA)};
${bindingsOfB}
@group(0) @binding(${next}) var<storage, read_write> c: ${floats(alignedC)};
@group(0) @binding(${next + 1}) var<uniform> p: Tiled;
@group(0) @binding(${next + 2}) var<storage, read> d: ${floats(alignedC)};
${split ? `@group(0) @binding(${next + 3}) var<storage, read_write> parts: array<vec4<f32>>;` : ""}
${sharedArray(aSide)}
${sharedArray(bSide, right.perWord)}
${sums.declare}

@compute @workgroup_size(${slices * threads})
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) invocation: u32) {
  let t = invocation${slices === 1 ? "" : ` % ${threads}u`};
  ${slices === 1 ? "" : `let slice = invocation / ${threads}u;`}
  let unit = w.y * groups.x + w.x;
  var tile = unit;
  var k_first = 0u;
  var k_end = p.k;
  ${
    split
      ? `if (unit >= p.whole) {
    tile = p.whole + (unit - p.whole) / p.splits;
    k_first = (unit - p.whole) % p.splits * p.chunk;
    k_end = min(p.k, k_first + p.chunk);
  }`
      : ""
  }
  let place = place_of(tile, ${rows}u, ${columns}u);
  if (place.which >= p.batch) {
    return;
  }
  let a_base = place.which * (p.a_stride${alignedA ? " / 4u" : ""});
  let b_base = place.which * (p.b_stride${right === DENSE_UNALIGNED ? "" : " / 4u"});
${
    warped
      ? `  let tx = t % 8u + 8u * (t / 32u % ${across / 8}u);
  let ty = t % 32u / 8u + 4u * (t / 32u / ${across / 8}u);`
      : `  let tx = t % ${across}u;
  let ty = t / ${across}u;`
  }
  ${unroll(threadRows, (i) => unroll(bSide.groups, (h) => `var c${i}_${h} = vec4<f32>();`))}
  { let t = invocation; ${right.prepare} }
  ${a.setup}
  ${b.setup}
  ${body}
  ${sums.code}
  ${epilogue(shape, across, down, options)}
}
`;
}
