/**
 * Weights in few bits as the right operand of a matmul tile: a thread loads a word of codes and its scale, and decodes them on
 * their way into workgroup memory.
 *
 * @module
 */
import type { RightOperand } from "./tile.ts";
import { type Operand, type OperandSide, place, spread } from "./tile_operand.ts";
import { unroll } from "./unroll.ts";
import type { WeightFormat } from "./weight_format.ts";

/** The suffix of what a format declares. */
const TAG = "_b";

/** Weight `e` of a word, scaled. */
function decode(format: WeightFormat, id: string, e: number): string {
  const weight = format.weight(id, e);
  return format.shifted ? `fma(${weight}, ${id}_s.x, ${id}_s.y)` : `${weight} * ${id}_s`;
}

/** A word and its scale. */
function registers(format: WeightFormat, id: string): string {
  return `
  var ${id}: ${format.type};
  var ${id}_s: ${format.shifted ? "vec2<f32>" : "f32"};`;
}

/** The scale of a loaded word, 0 beyond the end of K. */
function scaleOf(format: WeightFormat, side: OperandSide, value: string, inside: string): string {
  if (!side.ragged) return value;
  return `select(${format.shifted ? "vec2<f32>()" : "0.0"}, ${value}, ${inside})`;
}

/** W [N, K], K along the rows: y = x · Wᵀ. */
function transposedOperand(side: OperandSide, format: WeightFormat): Operand {
  const { width, depth } = side;
  const { unit } = format;
  const units = spread(side, width * depth / unit);
  return {
    setup: `let units = p.k / ${unit}u;` + units.map(({ index, id }) => `
  let ${id}_c = ${index} % ${depth / unit}u;
  let ${id}_r = ${index} / ${depth / unit}u;
  let ${id}_row = min(${side.first} + ${id}_r, ${side.length} - 1u);${registers(format, id)}`)
      .join(""),
    load: (k) =>
      units.map(({ guard, id }) => {
        const at = `(${k} / ${unit}u + ${id}_c)`;
        return `${guard}{
${id} = ${format.load(TAG, `${id}_row`, at)};
${id}_s = ${scaleOf(format, side, format.scale(TAG, `${id}_row`, at), `${at} < units`)};
}`;
      }).join("\n"),
    store: (stage) =>
      units.map(({ guard, id }) =>
        `${guard}{
${
          unroll(unit, (e) =>
            `${
              place(side, stage, `${unit}u * ${id}_c + ${e}u`, `${id}_r / 4u`, `${id}_c`, unit)
            }[${id}_r % 4u] = ${decode(format, id, e)};`)
        }
}`
      ).join("\n"),
  };
}

/** W [K, N] with the sum over its rows: dx = dy · W. */
function directOperand(side: OperandSide, format: WeightFormat): Operand {
  const { width, depth } = side;
  const { unit } = format;
  const units = spread(side, width / unit * depth);
  return {
    setup: `let units = ${side.length} / ${unit}u;` + units.map(({ index, id }) => `
  let ${id}_c = ${index} % ${width / unit}u;
  let ${id}_r = ${index} / ${width / unit}u;
  let ${id}_at = min(${side.first} / ${unit}u + ${id}_c, units - 1u);${registers(format, id)}`)
      .join(""),
    load: (k) =>
      units.map(({ guard, id }) => {
        const row = `(${k} + ${id}_r)`;
        return `${guard}{
${id} = ${format.load(TAG, row, `${id}_at`)};
${id}_s = ${scaleOf(format, side, format.scale(TAG, row, `${id}_at`), `${row} < p.k`)};
}`;
      }).join("\n"),
    store: (stage) =>
      units.map(({ guard, id }) =>
        `${guard}{
${
          unroll(unit / 4, (h) =>
            `${
              place(side, stage, `${id}_r`, `${unit / 4}u * ${id}_c + ${h}u`, "0u", unit)
            } = vec4<f32>(${[0, 1, 2, 3].map((e) => decode(format, id, 4 * h + e)).join(", ")});`)
        }
}`
      ).join("\n"),
  };
}

/** A weight in units of one word as a right operand. Every row, and every group that shares a scale, is a whole number of words. */
export function packedOperand(format: WeightFormat): RightOperand {
  return {
    kind: format.kind,
    packed: true,
    declare: (binding) => format.declare(binding, TAG) + Object.values(format.common).join(""),
    prepare: format.prepare,
    perWord: format.unit as 4 | 8,
    load: (side) => side.transposed ? transposedOperand(side, format) : directOperand(side, format),
  };
}
