import { threefry } from "../../core/random.ts";

/** The specification of dropout.ts. */
export function dropoutRef(
  x: ArrayLike<number>,
  p: number,
  seed: number,
  step: number,
  site: number,
): Float64Array {
  return Float64Array.from(x, (value, i) => {
    const word = threefry([seed, site], [step, i >> 1])[i & 1];
    return (word >>> 8) * 2 ** -24 >= Math.fround(p) ? value / (1 - p) : 0;
  });
}
