/**
 * Products of many quantized rows with integer weights: tiles in workgroup memory, four products to an instruction. On an H100 a
 * first version of such tiles took 51.6 TOP/s at 4096³.
 *
 * @module
 */
import { gridOf } from "../../core/grid.ts";
import { type Kernel, kernel } from "../../core/kernel.ts";
import {
  type ByteForm,
  type ByteProduct,
  bytesWgsl,
  byteUniform,
  fitsBytes,
  formOf,
  hasByteDots,
} from "./int8_words.ts";
import { unroll } from "./unroll.ts";

/** Words along k of a tile: 32 bytes. */
const DEPTH = 8;

/** Invocations of a workgroup: 16 by 16. */
const THREADS = 256;

/** Rows and columns that an invocation computes. */
type Side = 4 | 8;

/** Whether tiles can take a weight: groups of scales must be whole tiles along k. */
export function fitsByteTiles({ weight }: Pick<ByteProduct, "weight">): boolean {
  return fitsBytes(weight, 4 * DEPTH);
}

/** Large tiles where they are enough for a large GPU. */
function chooseSide({ m, weight }: ByteProduct): Side {
  return Math.ceil(m / 128) * Math.ceil(weight.shape[0] / 128) >= 64 ? 8 : 4;
}

/** Statements that load a tile's words of weights: codes become bytes on the way. */
function loadWeights({ bits }: ByteForm, tile: number): string {
  const each = bits === 8 ? DEPTH : DEPTH / 2;
  return unroll(Math.ceil(tile * each / THREADS), (i) => {
    const at = `let at = t + ${i * THREADS}u;`;
    const row = `let row = at / ${each}u; let c = at % ${each}u;`;
    const source = `min(first_column + row, params.n - 1u) * row_words + word_at / ${
      bits === 8 ? 1 : 2
    }u + c`;
    const inside = bits === 8 ? "word_at + c < params.words" : "word_at + 2u * c < params.words";
    const store = bits === 8
      ? `w_tile[c * STRIDE + row] = select(0u, bytes(word), ${inside});`
      : `w_tile[2u * c * STRIDE + row] = select(0u, bytes(word), ${inside});
      w_tile[(2u * c + 1u) * STRIDE + row] = select(0u, bytes(word >> 16u), ${inside});`;
    // Beyond the end of the row another word is loaded, and not used.
    return `{ ${at} ${row} let word = packed[min(${source}, arrayLength(&packed) - 1u)]; ${store} }`;
  });
}

function loadRows(tile: number): string {
  return unroll(
    tile * DEPTH / THREADS,
    (i) =>
      `{ let at = t + ${i * THREADS}u; let row = at / ${DEPTH}u; let c = at % ${DEPTH}u;
      let source = min(first_row + row, params.m - 1u) * params.words + min(word_at + c, params.words - 1u);
      x_tile[c * STRIDE + row] = select(0u, codes[source], word_at + c < params.words); }`,
  );
}

/** Statements that scale the sums of a group of weights, and begin the next. */
function flush({ zeros, offset }: ByteForm, side: Side): string {
  const both = (line: (i: number, j: number) => string) =>
    unroll(side, (i) => unroll(side, (j) => line(i, j)));
  return `
    let count = i32(min(params.group_size, params.k - group * params.group_size));
    ${
    unroll(side, (j) =>
      `let at${j} = min(column + ${j}u, params.n - 1u) * params.groups + group;
    let own${j} = scales[at${j}];
    ${offset ? `let lost${j} = params.zero * sums[at${j}];` : ""}`)
  }
    ${zeros && offset ? unroll(side, (i) => `all${i} -= count * params.zero;`) : ""}
    ${
    both((i, j) =>
      `y${i}_${j} += own${j}.x * (f32(s${i}_${j}${offset ? ` - lost${j}` : ""})${
        zeros ? ` - (own${j}.y - MIDDLE) * f32(all${i})` : ""
      });
    s${i}_${j} = 0;`
    )
  }
    ${zeros ? unroll(side, (i) => `all${i} = 0;`) : ""}
    group++;`;
}

function source(form: ByteForm, side: Side): string {
  const { zeros, offset, grouped, add } = form;
  const tile = 16 * side;
  const both = (line: (i: number, j: number) => string) =>
    unroll(side, (i) => unroll(side, (j) => line(i, j)));
  const step = `
      ${unroll(side, (i) => `let a${i} = x_tile[c * STRIDE + x_at + ${i}u];`)}
      ${unroll(side, (j) => `let b${j} = w_tile[c * STRIDE + w_at + ${j}u];`)}
      ${both((i, j) => `s${i}_${j} += dot4(a${i}, b${j});`)}
      ${zeros ? unroll(side, (i) => `all${i} += dot4(a${i}, ONES);`) : ""}`;
  return `${bytesWgsl(form)}
const STRIDE = ${tile + 4}u;
@group(0) @binding(0) var<storage, read> codes: array<u32>;
@group(0) @binding(1) var<storage, read> row_scales: array<f32>;
@group(0) @binding(2) var<storage, read> packed: array<u32>;
@group(0) @binding(3) var<storage, read> scales: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;
${offset ? "@group(0) @binding(6) var<storage, read> sums: array<i32>;" : ""}
${add ? `@group(0) @binding(${offset ? 7 : 6}) var<storage, read> d: array<f32>;` : ""}
var<workgroup> x_tile: array<u32, ${DEPTH}u * STRIDE>;
var<workgroup> w_tile: array<u32, ${DEPTH}u * STRIDE>;

@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let which = w.y * grid.x + w.x;
  let across = (params.n + ${tile - 1}u) / ${tile}u;
  let first_row = which / across * ${tile}u;
  let first_column = which % across * ${tile}u;
  let row_words = params.k / ${form.bits === 8 ? 4 : 8}u;
  let x_at = t / 16u * ${side}u;
  let w_at = t % 16u * ${side}u;
  let column = first_column + w_at;
  var group = 0u;
  ${both((i, j) => `var s${i}_${j} = 0; var y${i}_${j} = 0.0;`)}
  ${zeros ? unroll(side, (i) => `var all${i} = 0;`) : ""}
  for (var word_at = 0u; word_at < params.words; word_at += ${DEPTH}u) {
    workgroupBarrier();
    ${loadRows(tile)}
    ${loadWeights(form, tile)}
    workgroupBarrier();
    for (var c = 0u; c < ${DEPTH}u; c++) {${step}
    }
    ${
    grouped
      ? `if ((word_at + ${DEPTH}u) * 4u % params.group_size == 0u || word_at + ${DEPTH}u >= params.words) {${
        flush(form, side)
      }
    }`
      : ""
  }
  }
  ${grouped ? "" : flush(form, side)}
  ${
    unroll(side, (i) =>
      `if (first_row + x_at + ${i}u < params.m) {
    let row = first_row + x_at + ${i}u;
    let scale = row_scales[row];
    ${
        unroll(side, (j) =>
          `if (column + ${j}u < params.n) {
      let at = row * params.n + column + ${j}u;
      out[at] = y${i}_${j} * scale${add ? " + d[at]" : ""};
    }`)
      }
  }`)
  }
}
`;
}

const kernels = new Map<string, Kernel>();

/** Queues a product that `fitsByteTiles`. Tests choose the side of the tiles, and arithmetic in the place of WGSL's dot product. */
export function byteTiles(
  product: ByteProduct,
  side: Side = chooseSide(product),
  native: boolean = hasByteDots(),
): void {
  const { x, weight, sums, add, out, m } = product;
  const form = formOf(product, native);
  const key = JSON.stringify([form, side]);
  let found = kernels.get(key);
  if (!found) kernels.set(key, found = kernel("int8_tile", source(form, side)));
  const [n, k] = weight.shape;
  const bindings = [x.codes, x.scales, weight.packed, weight.scales, out];
  const tile = 16 * side;
  out.device.dispatch(
    found,
    [...bindings, byteUniform(product), ...(form.offset ? [sums!] : []), ...(add ? [add] : [])],
    gridOf(Math.ceil(m / tile) * Math.ceil(n / tile)),
    undefined,
    2 * m * n * k,
  );
}
