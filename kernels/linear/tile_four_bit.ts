/**
 * 4-bit weights as the right operand of a matmul tile: a thread loads a word of eight codes and its scale, and decodes them on
 * their way into workgroup memory.
 *
 * @module
 */
import { decoderOf } from "../quant/four_bit_decode.ts";
import type { FourBitTensor } from "../quant/four_bit.ts";
import type { RightOperand } from "./tile.ts";
import { type Operand, type OperandSide, place, spread } from "./tile_operand.ts";
import { unroll } from "./unroll.ts";

/** Where the eight codes lie in a word: the first of each byte is in the high half. */
const SHIFTS = [4, 0, 12, 8, 20, 16, 28, 24];

function decode(word: string, e: number): string {
  return `code_value((${word} >> ${SHIFTS[e]}u) & 15u)`;
}

/** W [N, K], K along the rows: y = x · Wᵀ. */
function transposedOperand(side: OperandSide, blockSize: number): Operand {
  const { width, depth } = side;
  const units = spread(side, width * depth / 8);
  return {
    setup: units.map(({ index, id }) => `
  let ${id}_c = ${index} % ${depth / 8}u;
  let ${id}_r = ${index} / ${depth / 8}u;
  let ${id}_at = min(${side.first} + ${id}_r, ${side.length} - 1u) * (p.k / 8u) + ${id}_c;
  var ${id}: u32;
  var ${id}_s: f32;`).join(""),
    load: (k) =>
      units.map(({ guard, id }) => {
        const scale = `absmax_at((${id}_at + ${k} / 8u) / ${blockSize / 8}u)`;
        const ragged = `select(0.0, ${scale}, ${k} + 8u * ${id}_c < p.k)`;
        return `${guard}{
${id} = packed[${id}_at + ${k} / 8u];
${id}_s = ${side.ragged ? ragged : scale};
}`;
      }).join("\n"),
    store: (stage) =>
      units.map(({ guard, id }) =>
        `${guard}{
${
          unroll(8, (e) =>
            `${
              place(side, stage, `8u * ${id}_c + ${e}u`, `${id}_r / 4u`, `${id}_c`, 8)
            }[${id}_r % 4u] = ${decode(id, e)} * ${id}_s;`)
        }
}`
      ).join("\n"),
  };
}

/** W [K, N] with the sum over its rows: dx = dy · W. */
function directOperand(side: OperandSide, blockSize: number): Operand {
  const { width, depth } = side;
  const units = spread(side, width / 8 * depth);
  const half = (id: string, stage: number, h: number) =>
    `${place(side, stage, `${id}_r`, `2u * ${id}_c + ${h}u`, "0u", 8)} = ${id}_s * vec4<f32>(${
      [0, 1, 2, 3].map((e) => decode(id, 4 * h + e)).join(", ")
    });`;
  return {
    setup: units.map(({ index, id }) => `
  let ${id}_c = ${index} % ${width / 8}u;
  let ${id}_r = ${index} / ${width / 8}u;
  let ${id}_at = min(${side.first} / 8u + ${id}_c, ${side.length} / 8u - 1u);
  var ${id}: u32;
  var ${id}_s: f32;`).join(""),
    load: (k) =>
      units.map(({ guard, id }) => {
        const at = `(${id}_at + (${k} + ${id}_r) * (${side.length} / 8u))`;
        const scale = `absmax_at(${at} / ${blockSize / 8}u)`;
        const ragged = `select(0.0, ${scale}, ${k} + ${id}_r < p.k)`;
        return `${guard}{
${id} = packed[${at}];
${id}_s = ${side.ragged ? ragged : scale};
}`;
      }).join("\n"),
    store: (stage) =>
      units.map(({ guard, id }) =>
        `${guard}{
${half(id, stage, 0)}
${half(id, stage, 1)}
}`
      ).join("\n"),
  };
}

/** A 4-bit weight as a right operand. */
export function fourBitOperand(w: FourBitTensor): RightOperand {
  const decoder = decoderOf(w);
  return {
    kind: `${decoder.kind}-${w.blockSize}`,
    declare: (binding) =>
      `@group(0) @binding(${binding}) var<storage, read> packed: array<u32>;${
        decoder.wgsl(binding + 1)
      }`,
    prepare: "prepare_codes(t);",
    perWord: 8,
    load: (side) =>
      side.transposed ? transposedOperand(side, w.blockSize) : directOperand(side, w.blockSize),
  };
}
