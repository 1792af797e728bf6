/**
 * How a matmul tile loads an operand: from global memory to registers, and from there to workgroup memory, where it lies
 * k-major, so that the inner product reads vectors along the result's axis.
 *
 * @module
 */
import { unroll } from "./unroll.ts";

/** One operand's part of a tile. */
export interface OperandSide {
  /** "a" or "b": prefixes every name. */
  readonly name: string;
  /** Rows (of A) or columns (of B) of the result in the tile. */
  readonly width: number;
  /** Steps along K in the tile. */
  readonly depth: number;
  /** Copies of the tile in workgroup memory, and groups of threads that have so many each. */
  readonly stages: 1 | 2;
  readonly slices: number;
  /** Threads along this side, and how many of them there are in all. */
  readonly threads: number;
  readonly allThreads: number;
  /** Groups of four that a thread owns: width / (4 · threads). */
  readonly groups: number;
  /** WGSL names of the tile's first row or column, and of their number in the result. */
  readonly first: string;
  readonly length: string;
  /** Whether K is the operand's last axis, so that it must be transposed on its way in. */
  readonly transposed: boolean;
  /** Whether K is not a multiple of what a loop iteration takes: what lies beyond is loaded as zero. */
  readonly ragged: boolean;
  /** Whether the operand's rows are multiples of four floats, and its binding one of vectors. */
  readonly aligned: boolean;
  /** Whether a transposed operand of floats is loaded four rows at a time. */
  readonly quads: boolean;
  /** Whether it lies in 16 bits, in rows that are multiples of four: its binding is `array<vec2<u32>>`. */
  readonly halves?: boolean;
}

/** The pieces of WGSL that load an operand. */
export interface Operand {
  /** Statements at the start: addresses that do not change, and registers. */
  readonly setup: string;
  /** Global memory to registers, for the tile at `k`. */
  load(k: string): string;
  /** Registers to stage `stage` of workgroup memory. */
  store(stage: number): string;
}

/** How a row of the workgroup copy is laid out: the swizzle keeps transposing stores out of each other's banks. */
interface Placement {
  readonly swizzled: boolean;
  readonly shift: number;
  readonly padding: number;
}

const log2 = (x: number) => Math.round(Math.log2(x));

/** `perWord`: how many steps along K one stored unit covers, as a power of two (4 for floats, 8 for 4-bit codes). */
function placement(side: OperandSide, perWord = 4): Placement {
  const swizzled = side.transposed && side.threads >= 8;
  const bits = perWord === 8 ? 6 : 5;
  return {
    swizzled,
    shift: Math.max(0, bits - log2(side.depth)),
    padding: side.transposed && !swizzled ? 1 : 0,
  };
}

/** The workgroup array of an operand: [slice · stages + stage][k · groups + group][thread]. */
export function sharedArray(side: OperandSide, perWord = 4): string {
  const { padding } = placement(side, perWord);
  return `var<workgroup> ${side.name}_tile: array<array<array<vec4<f32>, ${
    side.threads + padding
  }>, ${side.depth * side.groups}>, ${side.slices * side.stages}>;`;
}

/** The copy that is a slice's stage. */
function copyOf({ stages, slices }: OperandSide, stage: number): string {
  return slices === 1 ? String(stage) : `slice * ${stages}u + ${stage}u`;
}

/** The expression that reads a thread's group `g` at step `kk` (both numbers) of a stage. */
export function readShared(
  side: OperandSide,
  stage: number,
  kk: number,
  g: number,
  thread: string,
  perWord = 4,
): string {
  const { swizzled, shift } = placement(side, perWord);
  const turn = swizzled ? (kk >> log2(perWord)) << shift : 0;
  const at = turn ? `${thread} ^ ${turn}u` : thread;
  return `${side.name}_tile[${copyOf(side, stage)}][${kk * side.groups + g}][${at}]`;
}

/** The place of block `block` (four rows or columns) at step `kk`, both WGSL; `unit` is kk divided by what a unit covers. */
export function place(
  side: OperandSide,
  stage: number,
  kk: string,
  block: string,
  unit: string,
  perWord = 4,
): string {
  const { swizzled, shift } = placement(side, perWord);
  const at = `(${block}) % ${side.threads}u`;
  const turned = swizzled ? `((${at}) ^ ((${unit}) << ${shift}u))` : at;
  return `${side.name}_tile[${
    copyOf(side, stage)
  }][(${kk}) * ${side.groups}u + (${block}) / ${side.threads}u][${turned}]`;
}

/** Spreads `units` of work over the threads: for each turn its index, and a guard where there are fewer units than threads. */
export function spread(
  side: OperandSide,
  units: number,
): { index: string; guard: string; id: string }[] {
  return Array.from({ length: Math.ceil(units / side.allThreads) }, (_, turn) => {
    const index = turn === 0 ? "t" : `(t + ${turn * side.allThreads}u)`;
    const all = (turn + 1) * side.allThreads <= units;
    return { index, guard: all ? "" : `if (${index} < ${units}u) `, id: `${side.name}${turn}` };
  });
}

/**
 * A loaded value, and whether it lies within K: what lies beyond is stored as zero, when the load has long arrived. `wide` says that
 * the four steps from `k` on may end within the vector.
 */
function value(side: OperandSide, id: string, wide = false) {
  const { name, aligned, ragged, halves } = side;
  // Halves stay packed until they are stored: who widens them at once waits for the load.
  const read = halves ? `halves(${id})` : id;
  const each = wide && !aligned;
  const inside = (k: string) =>
    each
      ? `vec4<u32>(${[0, 1, 2, 3].map((j) => `${k} + ${j}u`).join(", ")}) < vec4<u32>(p.k)`
      : `${k} < p.k`;
  const vector = (at: string) =>
    aligned
      ? `${name}[${at}]`
      : `vec4<f32>(${[0, 1, 2, 3].map((j) => `${name}[${at} + ${j}u]`).join(", ")})`;
  return {
    declare: `var ${id}: ${halves ? "vec2<u32>" : "vec4<f32>"};` +
      (ragged ? `\n  var ${id}_in: ${each ? "vec4<bool>" : "bool"};` : ""),
    load: (k: string, at: string) =>
      `${id} = ${vector(at)};${ragged ? ` ${id}_in = ${inside(k)};` : ""}`,
    read: ragged ? `select(vec4<f32>(), ${read}, ${id}_in)` : read,
  };
}

/** An index of an operand's elements as an index of its binding, and that of unit `id` in its row. */
function indexing({ aligned }: OperandSide) {
  return {
    index: (elements: string) => aligned ? `(${elements}) / 4u` : `(${elements})`,
    unit: (id: string) => aligned ? `${id}_c` : `4u * ${id}_c`,
  };
}

/** Rows of k: a unit is a vector along the result's axis. */
function directOperand(side: OperandSide): Operand {
  const { name, width, depth, first, length } = side;
  const { index, unit } = indexing(side);
  const units = spread(side, width / 4 * depth);
  return {
    setup: units.map(({ index: i, id }) => `
  let ${id}_c = ${i} % ${width / 4}u;
  let ${id}_r = ${i} / ${width / 4}u;
  let ${id}_at = ${name}_base + min(${index(first)} + ${unit(id)}, ${index(length)} - 1u);
  ${value(side, id).declare}`).join(""),
    load: (k) =>
      units.map(({ guard, id }) => {
        const row = `(${k} + ${id}_r)`;
        return `${guard}{ ${value(side, id).load(row, `${id}_at + ${row} * (${index(length)})`)} }`;
      }).join("\n"),
    store: (stage) =>
      units.map(({ guard, id }) =>
        `${guard}{ ${place(side, stage, `${id}_r`, `${id}_c`, "0u")} = ${value(side, id).read}; }`
      ).join("\n"),
  };
}

/** Rows of the result's axis: a unit is a vector along k, stored as four scalars. */
function transposedOperand(side: OperandSide): Operand {
  const { name, width, depth, first, length } = side;
  const { index, unit } = indexing(side);
  const units = spread(side, width * depth / 4);
  return {
    setup: units.map(({ index: i, id }) => `
  let ${id}_c = ${i} % ${depth / 4}u;
  let ${id}_r = ${i} / ${depth / 4}u;
  let ${id}_at = ${name}_base + min(${first} + ${id}_r, ${length} - 1u) * (${index("p.k")}) + ${
      unit(id)
    };
  ${value(side, id, true).declare}`).join(""),
    load: (k) =>
      units.map(({ guard, id }) =>
        `${guard}{ ${
          value(side, id, true).load(`(${k} + 4u * ${id}_c)`, `${id}_at + ${index(k)}`)
        } }`
      ).join("\n"),
    store: (stage) =>
      units.map(({ guard, id }) =>
        `${guard}{
let v = ${value(side, id, true).read};
${
          unroll(4, (j) =>
            `${
              place(side, stage, `4u * ${id}_c + ${j}u`, `${id}_r / 4u`, `${id}_c`)
            }[${id}_r % 4u] = v[${j}];`)
        } }`
      ).join("\n"),
  };
}

/** The same, but a unit is four rows by four steps along k, transposed in registers and stored as four vectors. */
function quadOperand(side: OperandSide): Operand {
  const { name, width, depth } = side;
  const units = spread(side, width * depth / 16);
  const rows = (id: string) => [0, 1, 2, 3].map((i) => value(side, `${id}_${i}`));
  return {
    setup: units.map(({ index, id }) => `
  let ${id}_c = ${index} % ${depth / 4}u;
  let ${id}_r = ${index} / ${depth / 4}u;
  ${
      rows(id).map(({ declare }, i) =>
        `let ${id}_at${i} = ${name}_base + min(${side.first} + 4u * ${id}_r + ${i}u, ${side.length} - 1u) * (p.k / 4u) + ${id}_c;
  ${declare}`
      ).join("\n")
    }`).join(""),
    load: (k) =>
      units.map(({ guard, id }) =>
        `${guard}{ ${
          rows(id).map(({ load }, i) => load(`(${k} + 4u * ${id}_c)`, `${id}_at${i} + ${k} / 4u`))
            .join("\n")
        } }`
      ).join("\n"),
    store: (stage) =>
      units.map(({ guard, id }) =>
        `${guard}{
${rows(id).map(({ read }, i) => `let v${i} = ${read};`).join("\n")}
${
          unroll(4, (j) =>
            `${
              place(side, stage, `4u * ${id}_c + ${j}u`, `${id}_r`, `${id}_c`)
            } = vec4<f32>(v0[${j}], v1[${j}], v2[${j}], v3[${j}]);`)
        } }`
      ).join("\n"),
  };
}

/**
 * Floats, in a binding of the side's name: `array<vec4<f32>>`, or `array<f32>` where rows are not aligned; halves in `array<vec2<u32>>`.
 */
export function denseOperand(side: OperandSide): Operand {
  if (!side.transposed) return directOperand(side);
  return side.quads && side.aligned ? quadOperand(side) : transposedOperand(side);
}
