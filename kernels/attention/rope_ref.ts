/** The specification of rope.ts: x [tokens, heads, size], angles from the plain formula. */
export function ropeRef(
  x: ArrayLike<number>,
  positions: ArrayLike<number>,
  tokens: number,
  heads: number,
  size: number,
  theta: number,
): Float64Array {
  const out = new Float64Array(tokens * heads * size);
  const half = size / 2;
  for (let token = 0; token < tokens; token++) {
    for (let head = 0; head < heads; head++) {
      const base = (token * heads + head) * size;
      for (let j = 0; j < half; j++) {
        const angle = positions[token] * theta ** (-2 * j / size);
        const [c, s] = [Math.cos(angle), Math.sin(angle)];
        out[base + j] = x[base + j] * c - x[base + j + half] * s;
        out[base + j + half] = x[base + j + half] * c + x[base + j] * s;
      }
    }
  }
  return out;
}
