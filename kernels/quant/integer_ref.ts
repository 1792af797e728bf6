/**
 * The specification of integer.ts: what quantization to integers gives back, in float32 steps as PyTorch makes them.
 *
 * @module
 */
import { roundHalfEven } from "./rounding.ts";

/**
 * Symmetric, with n = 2^(bits − 1): q = clamp(round(w / scale), 1 − n, n − 1) with scale = absmax / (n − 1), or with the full range
 * clamp(…, −n, n − 1) with absmax / (n − 0.5). Gives q · scale.
 */
export function symmetricRef(weights: ArrayLike<number>, bits = 8, full = false): number[] {
  const n = 2 ** (bits - 1);
  const { fround } = Math;
  let most = 0;
  for (let i = 0; i < weights.length; i++) most = Math.max(most, Math.abs(weights[i]));
  const scale = fround(most / (full ? n - 0.5 : n - 1));
  return Array.from(weights, (w) => {
    if (scale === 0) return 0;
    const q = roundHalfEven(fround(w / scale));
    return fround(Math.max(full ? -n : 1 - n, Math.min(n - 1, q)) * scale);
  });
}

/**
 * Asymmetric, 2^bits levels over [min(w, 0), max(w, 0)]: q = clamp(round(w / scale) + zero, 0, 2^bits − 1). Gives
 * (q − zero) · scale.
 */
export function asymmetricRef(weights: ArrayLike<number>, bits = 4): number[] {
  const most = 2 ** bits - 1;
  const { fround } = Math;
  const low = Math.min(0, ...Array.from(weights));
  const high = Math.max(0, ...Array.from(weights));
  const scale = fround(fround(high - low) / most);
  const zero = scale === 0 ? 0 : roundHalfEven(fround(-low / scale));
  return Array.from(weights, (w) => {
    if (scale === 0) return 0;
    const q = Math.max(0, Math.min(most, roundHalfEven(fround(w / scale)) + zero));
    return fround((q - zero) * scale);
  });
}
