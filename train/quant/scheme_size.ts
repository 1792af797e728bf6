/**
 * Bytes of a weight in a scheme, without quantizing it.
 *
 * @module
 */
import { INTEGER_BITS } from "../../kernels/quant/integer.ts";
import { GROUP_SIZE, type UniformScheme, type WeightScheme } from "./weight_only.ts";

/** Of a scheme for all weights. */
function uniformBytes(scheme: UniformScheme, rows: number, columns: number): number {
  const size = rows * columns;
  switch (scheme.kind) {
    case "int8":
    case "int4":
    case "int3":
    case "int2": {
      const { kind, groupSize, per, range } = scheme;
      const bits = INTEGER_BITS[kind];
      const group = groupSize ?? (kind === "int8" || per ? columns : GROUP_SIZE);
      const groups = rows * Math.ceil(columns / group);
      const hasZeros = (range ?? (kind === "int8" ? "symmetric" : "asymmetric")) === "asymmetric";
      return Math.ceil(size * bits / 8) + 4 * groups +
        (hasZeros ? Math.ceil(groups * bits / 8) : 0);
    }
    case "hqq": {
      const groups = rows * Math.ceil(columns / (scheme.groupSize ?? GROUP_SIZE));
      return Math.ceil(size * (scheme.bits ?? 4) / 8) + 4 * groups + 2 * groups;
    }
    case "nf4":
    case "fp4": {
      const blocks = Math.ceil(size / (scheme.blockSize ?? GROUP_SIZE));
      const scales = scheme.doubleQuant ? blocks + 4 * Math.ceil(blocks / 256) + 4 : 4 * blocks;
      return Math.ceil(size / 2) + scales;
    }
  }
}

/**
 * What a weight takes in a scheme, scales and zero points included, as the quantized weight itself says in `bytes`.
 *
 * @param scheme the scheme; null for 32 bits
 * @param shape [rows, columns]
 *
 * @example A 4096×4096 matrix of a 7B model
 * ```ts
 * import { parseScheme, schemeBytes } from "@nibble/nibble";
 *
 * for (const name of ["f32", "int8", "int4", "nf4-dq"]) {
 *   console.log(name, schemeBytes(parseScheme(name), [4096, 4096]));
 * }
 * ```
 */
export function schemeBytes(
  scheme: WeightScheme | null,
  [rows, columns]: readonly [number, number],
): number {
  if (!scheme) return 4 * rows * columns;
  if (scheme.kind !== "split") return uniformBytes(scheme, rows, columns);
  const share = Math.max(1, Math.round(scheme.share * columns));
  const kept = scheme.columns?.length ?? Math.min(share, columns);
  // The kept columns in 16 bits, and their numbers.
  return uniformBytes(scheme.rest, rows, columns) + 2 * rows * kept + 4 * kept;
}
