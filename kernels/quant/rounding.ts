/**
 * Rounding as PyTorch does it.
 *
 * @module
 */

/** Added and taken off again, it leaves no digit behind the point: float64 itself rounds ties to even. */
const SHIFT = 1.5 * 2 ** 52;

/** To the nearest whole number, ties to the even one, as `torch.round`. */
export function roundHalfEven(value: number): number {
  // What is larger has no digits behind the point, or half ones alone.
  if (value > -(2 ** 51) && value < 2 ** 51) return value + SHIFT - SHIFT;
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return rest < 0.5 ? floor : floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}
