/**
 * Which tile takes a product, and which of its tiles are shared by several workgroups: the plan with the least time by a small model
 * of a GPU, whose numbers were measured on an H100. A workgroup's time grows with its steps along K; the time of all is that of the
 * multiprocessor with the most of them.
 *
 * @module
 */
import type { Layout, Product } from "./product.ts";
import { memoryOf, type TileShape } from "./tile_source.ts";

/** How a product is cut. */
export interface TilePlan {
  readonly shape: TileShape;
  /** So many tiles are computed by one workgroup each, */
  readonly whole: number;
  /** and each of the others by so many. */
  readonly splits: number;
}

/** Steps along K that a loop iteration takes. */
export function stepOf({ depth, turn, slices }: TileShape): number {
  return slices * depth * turn;
}

/** The tiles of a product. */
export function tilesOf(
  { m, n, batch }: Pick<Product, "m" | "n" | "batch">,
  { rows, columns }: TileShape,
): number {
  return batch * Math.ceil(m / rows) * Math.ceil(n / columns);
}

/** A shape, and what its workgroups cost. */
interface Candidate {
  readonly shape: TileShape;
  /** Nanoseconds for a step along K: of a workgroup that has a multiprocessor for itself, and of each where several share one. */
  readonly alone: number;
  readonly shared: number;
  /** The first of both where the operands do not fit into the cache, and the next loads are not under way early enough. */
  readonly far?: number;
  /** Nanoseconds before and after the loop, the launch included. */
  readonly fixed: number;
  /** How many workgroups more than its share a multiprocessor gets, where they are not spread evenly. */
  readonly uneven: number;
  /** How many fill a multiprocessor, where the first tiles may be whole and only the last ones shared. */
  readonly mixed: number;
  /** The most rows and columns of a result for which it is tried: fewer kernels to compile. */
  readonly mostRows: number;
  readonly mostColumns: number;
  /** The fewest tiles, and the fewest rows of a result, for which it is tried. */
  readonly leastTiles: number;
  readonly leastRows: number;
  /** How much better it must be than an earlier one where the right operand is packed: its kernel has to be compiled too. */
  readonly packedGain: number;
}

const shapeOf = (
  rows: number,
  columns: number,
  depth: number,
  threadRows: number,
  threadColumns: number,
  turn: 1 | 2 | 4 = 2,
  quads = false,
  slices = 1,
): TileShape => ({ rows, columns, depth, threadRows, threadColumns, turn, quads, slices });

/**
 * Its columns divide 192, 576, 960, 1536 and 3072, the widths of many small models. It compiles for half a second, so it is for
 * many rows only; and decoding weights with so few registers left, it is slower than `LARGE`.
 */
const WIDE = shapeOf(128, 192, 16, 8, 12);
const LARGE = shapeOf(128, 128, 16, 8, 8);
/** One copy in workgroup memory, but twice as deep: faster once two workgroups on a multiprocessor take turns all the time. */
const DEEP = shapeOf(128, 128, 32, 8, 8, 1, true);
const MEDIUM = shapeOf(64, 64, 16, 8, 4);
const SHALLOW = shapeOf(16, 64, 16, 4, 4);
const NARROW = shapeOf(64, 16, 16, 4, 4);
/** Twice as much of those: what is long is read half as often. */
const LOW = shapeOf(32, 64, 16, 4, 4);
const SLIM = shapeOf(64, 32, 16, 4, 4);

/** Many small tiles, each by four groups of threads: without parts that another dispatch has to add. */
const SLICED = shapeOf(32, 32, 16, 4, 4, 1, false, 4);

/** For a K so short that there is nothing to pipeline: LoRA's way up. With a little more of it, a thread does more with what it loads. */
const SHORTEST = shapeOf(64, 64, 16, 4, 4, 1);
const SHORT = shapeOf(64, 64, 16, 8, 4, 1);

/** Multiprocessors of the GPU that the model describes. */
const PROCESSORS = 132;

/** Operands of more bytes come from memory: 25 MB did not, 35 MB did. */
const CACHED = 30e6;

/** How much better a later plan must be: a little is not worth its memory, or its kernel. */
const GAIN = 1.03;

const any = {
  uneven: 0,
  mixed: 0,
  mostRows: Infinity,
  mostColumns: Infinity,
  leastTiles: 0,
  leastRows: 0,
  packedGain: GAIN,
};

/** Rows from which a kernel of its own is worth half a second of compiling: it saves a tenth of what they cost. */
const MANY_ROWS = 4096;

/** What `LOW` and `SLIM` cost. */
const twice = { alone: 28, shared: 16.5, fixed: 2800, far: 44, uneven: 0.15 };

/** Those that most products share come first: a later one must be better by `GAIN`, so that few kernels are compiled. */
const CANDIDATES: readonly Candidate[] = [
  { ...any, shape: LARGE, alone: 93, shared: 96, fixed: 4000, mixed: 2 },
  {
    ...any,
    shape: WIDE,
    alone: 138,
    shared: 140,
    fixed: 5500,
    mixed: 1,
    leastRows: MANY_ROWS,
    packedGain: Infinity,
  },
  { ...any, shape: DEEP, alone: 93, shared: 92, fixed: 4000, leastTiles: 4 * PROCESSORS },
  {
    ...any,
    shape: MEDIUM,
    alone: 33,
    shared: 28.5,
    fixed: 3100,
    far: 46,
    uneven: 0.4,
    packedGain: 1.2,
  },
  { ...any, shape: SHALLOW, alone: 18, shared: 10.3, fixed: 2800, mostRows: 16 },
  { ...any, shape: NARROW, alone: 18, shared: 10.3, fixed: 2800, mostColumns: 16 },
  { ...any, ...twice, shape: LOW, mostRows: 32 },
  { ...any, ...twice, shape: SLIM, mostColumns: 32 },
  { ...any, shape: SLICED, alone: 13, shared: 13.5, fixed: 3000 },
];

/** Every shape that a plan can have, for tests. */
export const TILE_SHAPES: readonly TileShape[] = [
  WIDE,
  LARGE,
  DEEP,
  MEDIUM,
  SHALLOW,
  NARROW,
  LOW,
  SLIM,
  SLICED,
  SHORTEST,
  SHORT,
];

/** The sum of parts: its launch in nanoseconds, and the bytes of parts that are written, read and added in one. */
const SUM_LAUNCH = 2500;
const SUM_BYTES = 1900;

/** Where x has so few rows, the GPU waits for the host, and a dispatch costs what it takes there. */
const FEW_ROWS = 128;
const SUM_LAUNCH_FEW = 14_000;

const MOST_SPLITS = 32;

/** The memory for parts, at most. */
const MOST_BYTES = 64 << 20;

/** So many rounds of whole tiles may come before shared ones. */
const MOST_ROUNDS = 8;

function bytesOf({ rows, columns }: TileShape, parts: number): number {
  return 4 * parts * rows * columns;
}

/** The time of so many workgroups that take `k` steps each: that of the multiprocessor with the most of them. */
function wave({ alone, shared, uneven }: Candidate, workgroups: number, k: number): number {
  if (workgroups <= PROCESSORS) return k * alone * Math.min(1, workgroups);
  return k * Math.max(alone, shared * (Math.ceil(workgroups / PROCESSORS) + uneven));
}

/** Steps along K of a workgroup that takes one of `splits` parts. */
export function chunkOf(k: number, splits: number, shape: TileShape): number {
  const step = stepOf(shape);
  return Math.ceil(k / splits / step) * step;
}

function cost(
  candidate: Candidate,
  k: number,
  tiles: number,
  whole: number,
  splits: number,
  launch: number,
) {
  const { shape, fixed } = candidate;
  const chunk = chunkOf(k, splits, shape);
  if (splits === 1) return fixed + wave(candidate, tiles, chunk);
  const parts = (tiles - whole) * splits;
  return fixed + wave(candidate, whole, k) + wave(candidate, parts, chunk) +
    launch + bytesOf(shape, parts) / SUM_BYTES;
}

const plans = new Map<string, TilePlan>();

/** What a plan depends on. */
export interface PlannedProduct extends Pick<Product, "m" | "n" | "k" | "batch"> {
  /** "nt" by default. */
  readonly layout?: Layout;
  /** Whether the right operand is a weight in few bits. */
  readonly packed?: boolean;
  /** Bytes of workgroup memory that the operands may take; by default as much as any plan does. */
  readonly memory?: number;
}

/** The plan for a product. */
export function chooseTilePlan(product: PlannedProduct): TilePlan {
  const { m, n, k, batch, layout = "nt", packed = false, memory = Infinity } = product;
  const key = [m, n, k, batch, layout === "tn", packed, memory].join();
  let found = plans.get(key);
  if (!found) plans.set(key, found = search({ ...product, layout, packed, memory }));
  return found;
}

/** K up to here is short, in any case or with enough tiles; and so much of it is the shortest. */
const SHORT_K = 16;
const SHORT_K_FULL = 64;
const SHORTEST_K = 32;

function search(product: Required<PlannedProduct>): TilePlan {
  const { m, n, k, layout, packed, memory } = product;
  const short = tilesOf(product, SHORT);
  if (k <= SHORT_K || k <= SHORT_K_FULL && short >= PROCESSORS) {
    return { shape: k <= SHORTEST_K ? SHORTEST : SHORT, whole: short, splits: 1 };
  }
  // Fits every device.
  let best: TilePlan = { shape: SHORT, whole: short, splits: 1 };
  let least = Infinity;
  const launch = (layout === "tn" ? k : m) <= FEW_ROWS ? SUM_LAUNCH_FEW : SUM_LAUNCH;
  const isFar = 4 * product.batch * k * (m + n) > CACHED;
  for (const given of CANDIDATES) {
    const candidate = isFar ? { ...given, alone: given.far ?? given.alone } : given;
    const { shape, mixed, mostRows, mostColumns, leastTiles, leastRows } = candidate;
    const tiles = tilesOf(product, shape);
    if (memoryOf(shape) > memory) continue;
    if (m > mostRows || n > mostColumns || m < leastRows || tiles < leastTiles) continue;
    const gain = packed ? candidate.packedGain : GAIN;
    // The tiles of the last round are shared, after as many whole ones as fill the others; after many rounds it does not matter.
    const rounds = Array.from(
      { length: tiles < MOST_ROUNDS * mixed * PROCESSORS ? mixed : 0 },
      (_, i) => tiles - tiles % ((i + 1) * PROCESSORS),
    );
    // Parts are added four columns at a time; where there are tiles enough, there are none.
    const parts = n % 4 === 0 && leastTiles === 0
      ? Math.min(MOST_SPLITS, Math.floor(k / stepOf(shape)))
      : 1;
    const most = Math.max(1, parts);
    for (const whole of new Set([0, ...rounds])) {
      for (let splits = 1; splits <= (whole < tiles ? most : 1); splits++) {
        // Rounded up to whole steps, fewer parts may do.
        const used = Math.ceil(k / chunkOf(k, splits, shape));
        if (used > 1 && bytesOf(shape, (tiles - whole) * used) > MOST_BYTES) continue;
        const time = cost(candidate, k, tiles, whole, used, launch);
        // Another plan of the same tile needs no kernel more.
        if (time * (best.shape === shape ? GAIN : gain) >= least) continue;
        least = time;
        best = { shape, whole: used === 1 ? tiles : whole, splits: used };
      }
    }
  }
  return best;
}
