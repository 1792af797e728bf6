/**
 * The 8-bit "dynamic" data type, which double quantization uses for its scales.
 *
 * @module
 */

/** `n` points evenly spaced on [0.1, 1], in float32, rounded as PyTorch's linspace rounds them. */
function linspace(n: number): Float32Array {
  const [first, last] = [Math.fround(0.1), 1];
  const step = Math.fround(Math.fround(last - first) / (n - 1));
  return Float32Array.from(
    { length: n },
    (_, i) => i < n >> 1 ? first + step * i : last - step * (n - 1 - i),
  );
}

let map: Float32Array | undefined;

/**
 * The signed dynamic map, 256 ascending values from −0.993 to 1: seven decades, each half of the codes of the next, with zero at
 * code 127 and no −1. Dettmers, "8-bit approximations" (arXiv 1511.04561), as bitsandbytes computes it, to the last bit.
 */
export function dynamicMap(): Float32Array {
  if (map) return map;
  const values = [0, 1];
  for (let decade = 0; decade < 7; decade++) {
    const points = linspace(2 ** decade + 1);
    const factor = Math.fround(10 ** (decade - 6));
    for (let i = 0; i + 1 < points.length; i++) {
      const middle = Math.fround(Math.fround(points[i] + points[i + 1]) / 2);
      const value = Math.fround(middle * factor);
      values.push(value, -value);
    }
  }
  return map = Float32Array.from(values).sort();
}
