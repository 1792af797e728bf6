/**
 * What the tiled attention kernels share. A workgroup holds blocks of rows (which it owns) and of columns (which it walks over) in
 * workgroup memory, `width` vectors of four elements of a head at a time; each thread computes some rows and columns of the scores
 * in registers, and sums weighted columns into its rows of a result. Loops are unrolled where an index should be a literal.
 *
 * Thread (tx, ty) has the rows ty + down · i and the columns tx + across · j, so that neighbouring threads read neighbouring
 * vectors; the vectors of a row are permuted by the row's last three bits, so that they lie in different banks.
 *
 * @module
 */
import { unroll } from "../linear/unroll.ts";

/** Sizes of a tile: the rows and columns of scores, and the threads across the columns and down the rows. */
export interface AttentionTile {
  readonly rows: number;
  readonly columns: number;
  readonly across: number;
  readonly down: number;
}

const XYZW = "xyzw";

/** An array in workgroup memory, in slabs: a thread's slab has a literal number, its place in the slab is the same for all. */
export interface Shared {
  readonly name: string;
  /** Rows of a slab when it holds rows or columns of heads. */
  readonly slabRows: number;
  /** Vectors of a slab. */
  readonly slab: number;
  readonly slabs: number;
}

/** Vectors of four elements in a piece of a head of `size` elements. */
export function pieceWidth(size: number): number {
  return size <= 32 ? 8 : 16;
}

/** The generator for one tile and head size. */
export class TileWriter {
  /** Vectors of four elements in a head, and in one piece of it. */
  readonly d4: number;
  readonly width: number;
  /** Pieces of a head. */
  readonly pieces: number;
  readonly threads: number;
  /** Rows and columns of a thread, and its vectors in a row of a result. */
  readonly threadRows: number;
  readonly threadColumns: number;
  readonly threadVectors: number;
  readonly tile: AttentionTile;

  /** For heads of `size` elements. */
  constructor(tile: AttentionTile, size: number) {
    this.tile = tile;
    this.d4 = size / 4;
    this.width = pieceWidth(size);
    this.pieces = Math.ceil(this.d4 / this.width);
    this.threads = tile.across * tile.down;
    this.threadRows = tile.rows / tile.down;
    this.threadColumns = tile.columns / tile.across;
    this.threadVectors = this.width / tile.across;
  }

  /** Vectors of weights for one column: four rows each. */
  get #quads(): number {
    return this.tile.rows / 4;
  }

  /** An array for rows of heads; with `weights` it is large enough for the weights of a whole tile. */
  rowArray(name: string, weights = false): Shared {
    return this.#array(name, this.tile.down, this.threadRows, weights);
  }

  /** An array for columns of heads; with `weights` it is large enough for the weights of a whole tile. */
  columnArray(name: string, weights = false): Shared {
    return this.#array(name, this.tile.across, this.threadColumns, weights);
  }

  #array(name: string, slabRows: number, slabs: number, weights: boolean): Shared {
    const slab = slabRows * this.width;
    const needed = weights ? Math.ceil(this.tile.columns * this.#quads / slab) : 0;
    return { name, slabRows, slab, slabs: Math.max(slabs, needed) };
  }

  /** Declares arrays. */
  declare(...arrays: readonly Shared[]): string {
    return arrays.map(({ name, slab, slabs }) =>
      `var<workgroup> ${name}: array<array<vec4<f32>, ${slab}>, ${slabs}>;`
    ).join("\n");
  }

  /** Bytes of arrays. */
  static bytes(arrays: readonly Shared[]): number {
    return arrays.reduce((total, { slab, slabs }) => total + 16 * slab * slabs, 0);
  }

  /** The places of a thread. */
  get prologue(): string {
    const { across } = this.tile;
    return `let tx = t % ${across}u;\n  let ty = t / ${across}u;`;
  }

  /**
   * Fills an array with a piece of so many rows; rows from `limit` on, and elements behind the head's last, become 0.
   *
   * @param value the vector `c` of row `r`, as WGSL
   */
  fill(
    array: Shared,
    rows: number,
    piece: number,
    first: string,
    limit: string,
    value: (row: string, c: string) => string,
  ): string {
    const { width, threads, d4 } = this;
    const ragged = (piece + 1) * width > d4;
    const whole = rows * width % threads === 0;
    return unroll(Math.ceil(rows * width / threads), (u) => {
      const index = `(t + ${u * threads}u)`;
      const load = `
    {
      let r = ${index} / ${width}u;
      let c = ${index} % ${width}u;
      let row = ${first} + r;
      var x = vec4<f32>();
      if (row < ${limit}${ragged ? ` && c + ${piece * width}u < ${d4}u` : ""}) {
        x = ${value("row", `(c + ${piece * width}u)`)};
      }
      ${array.name}[r / ${array.slabRows}u][r % ${array.slabRows}u * ${width}u + (c ^ (r % ${array.slabRows}u & 7u))] = x;
    }`;
      return whole ? load : `if (${index} < ${rows * width}u) {${load}\n    }`;
    });
  }

  /** For each row i and column j of the thread, one statement. */
  each(line: (i: number, j: number) => string): string {
    return unroll(this.threadRows, (i) => unroll(this.threadColumns, (j) => line(i, j)));
  }

  /** For each row i of the thread, one statement. */
  eachRow(line: (i: number) => string): string {
    return unroll(this.threadRows, line);
  }

  /** For each column j of the thread, one statement. */
  eachColumn(line: (j: number) => string): string {
    return unroll(this.threadColumns, line);
  }

  /** `to{i}_{j} += row i · column j` over the piece in the arrays. */
  products(to: string, rows: Shared, columns: Shared): string {
    const { width, threadRows, threadColumns } = this;
    const step = (k: number) => `
      {
        let e = d + ${k}u;
        let row_at = ty * ${width}u + (e ^ (ty & 7u));
        let column_at = tx * ${width}u + (e ^ (tx & 7u));
        ${unroll(threadColumns, (j) => `let y${j} = ${columns.name}[${j}][column_at];`)}
        ${
      unroll(threadRows, (i) =>
        `let x${i} = ${rows.name}[${i}][row_at];\n` +
        unroll(threadColumns, (j) =>
          `${to}${i}_${j} = ` +
          [..."wzyx"].reverse().reduce(
            (sum, c) => `fma(x${i}.${c}, y${j}.${c}, ${sum})`,
            `${to}${i}_${j}`,
          ) + ";"))
    }
      }`;
    return `for (var d = 0u; d < ${width}u; d += 2u) {${step(0)}${step(1)}\n    }`;
  }

  /** Writes the thread's `{from}{i}_{j}` where `accumulate` reads them as weights: for each column vectors of four rows. */
  spread(from: string, array: Shared): string {
    const { across, down } = this.tile;
    const quads = this.#quads;
    const perSlab = array.slab / quads;
    return unroll(this.threadColumns, (j) =>
      `{
      let column = tx + ${j * across}u;
      ${
        unroll(this.threadRows / 4, (g) =>
          `${array.name}[column / ${perSlab}u][column % ${perSlab}u * ${quads}u + ((ty + ${
            g * down
          }u) ^ (column & ${this.#mask}u))] = vec4<f32>(${
            [0, 1, 2, 3].map((c) => `${from}${4 * g + c}_${j}`).join(", ")
          });`)
      }
    }`);
  }

  /** Fills an array with weights as `accumulate` reads them. `value` gives the four rows `4 quad` and following of a column. */
  fillWeights(array: Shared, value: (column: string, quad: string) => string): string {
    const quads = this.#quads;
    const perSlab = array.slab / quads;
    return unroll(this.tile.columns * quads / this.threads, (u) =>
      `{
      let column = (t + ${u * this.threads}u) / ${quads}u;
      let quad = (t + ${u * this.threads}u) % ${quads}u;
      ${array.name}[column / ${perSlab}u][column % ${perSlab}u * ${quads}u + (quad ^ (column & ${this.#mask}u))] = ${
        value("column", "quad")
      };
    }`);
  }

  get #mask(): number {
    return Math.min(8, this.#quads) - 1;
  }

  /** `to{i}_{h} += Σ weight · vector h` over the columns in the array, for the thread's rows. */
  accumulate(to: string, weights: Shared, columns: Shared): string {
    const { width, threadRows, threadVectors, tile: { across, down } } = this;
    const quads = this.#quads;
    const perSlab = weights.slab / quads;
    const unrolled = Math.min(this.tile.columns, Math.max(perSlab, columns.slabRows));
    // Column `o * unrolled + u` of an array whose slabs hold `slabRows` columns.
    const outer = (slabRows: number, u: number) =>
      slabRows > unrolled ? "0u" : `o * ${unrolled / slabRows}u + ${Math.floor(u / slabRows)}u`;
    const step = (u: number) => `
      {
        ${
      unroll(threadRows / 4, (g) =>
        `let x${g} = ${weights.name}[${outer(perSlab, u)}][${u % perSlab * quads}u + ((ty + ${
          g * down
        }u) ^ ${u & this.#mask}u)];`)
    }
        ${
      unroll(threadVectors, (h) =>
        `let y${h} = ${columns.name}[${outer(columns.slabRows, u)}][${
          u % columns.slabRows * width
        }u + ((tx + ${h * across}u) ^ ${u & 7}u)];`)
    }
        ${
      unroll(threadRows, (i) =>
        unroll(threadVectors, (h) =>
          `${to}${i}_${h} = fma(vec4<f32>(x${i >> 2}.${XYZW[i & 3]}), y${h}, ${to}${i}_${h});`))
    }
      }`;
    return `for (var o = 0u; o < ${this.tile.columns / unrolled}u; o++) {${
      unroll(unrolled, step)
    }\n    }`;
  }

  /** `var` statements for a result of the thread's rows: all pieces, `{name}{piece}_{i}_{h}`. */
  results(name: string): string {
    return this.eachResult((p, i, h) => `var ${name}${p}_${i}_${h} = vec4<f32>();`);
  }

  /** One statement for each piece, row and vector of a result. */
  eachResult(line: (piece: number, i: number, h: number) => string): string {
    return unroll(
      this.pieces,
      (p) => this.eachRow((i) => unroll(this.threadVectors, (h) => line(p, i, h))),
    );
  }

  /**
   * Stores a result. `at` gives the place of vector 0 of the row `row`, as WGSL; rows from `limit` on are left out. With `quads`
   * the thread's rows are in fours, as `fillWeights` has them.
   */
  store(
    name: string,
    target: string,
    first: string,
    limit: string,
    at: string,
    value: (i: number, result: string) => string,
    quads = false,
  ): string {
    const { width, d4, pieces, tile: { across, down } } = this;
    const own = (i: number) =>
      quads ? `4u * (ty + ${(i >> 2) * down}u) + ${i & 3}u` : `ty + ${i * down}u`;
    return this.eachRow((i) =>
      `{
    let row = ${first} + ${own(i)};
    if (row < ${limit}) {
      let at = ${at};
      ${
        unroll(pieces, (p) =>
          unroll(this.threadVectors, (h) => {
            const c = `tx + ${p * width + h * across}u`;
            const write = `${target}[at + ${c}] = ${value(i, `${name}${p}_${i}_${h}`)};`;
            return p * width + (h + 1) * across > d4 ? `if (${c} < ${d4}u) { ${write} }` : write;
          }))
      }
    }
  }`
    );
  }
}
