/** The specification of scale.ts. */
export function scaleRef(x: ArrayLike<number>, factor: number): Float64Array {
  return Float64Array.from(x, (value) => value * factor);
}
