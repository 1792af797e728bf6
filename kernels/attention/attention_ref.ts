/** The specification of attention.ts: scores, softmax and sum, key by key. */
export function attentionRef(
  q: ArrayLike<number>,
  k: ArrayLike<number>,
  v: ArrayLike<number>,
  positions: ArrayLike<number>,
  dims: {
    batch: number;
    queries: number;
    keys: number;
    heads: number;
    kvHeads: number;
    size: number;
    past?: number;
  },
): Float64Array {
  const { batch, queries, keys, heads, kvHeads, size, past = 0 } = dims;
  const out = new Float64Array(batch * queries * heads * size);
  for (let b = 0; b < batch; b++) {
    for (let i = 0; i < queries; i++) {
      const last = past + i;
      const first = last - positions[b * queries + i];
      for (let h = 0; h < heads; h++) {
        const own = ((b * queries + i) * heads + h) * size;
        const kv = (key: number) =>
          ((b * keys + key) * kvHeads + Math.floor(h / (heads / kvHeads))) * size;
        const scores: number[] = [];
        for (let key = first; key <= last; key++) {
          let dot = 0;
          for (let d = 0; d < size; d++) dot += q[own + d] * k[kv(key) + d];
          scores.push(dot / Math.sqrt(size));
        }
        const largest = Math.max(...scores);
        const weights = scores.map((score) => Math.exp(score - largest));
        const total = weights.reduce((x, y) => x + y);
        weights.forEach((weight, n) => {
          for (let d = 0; d < size; d++) out[own + d] += weight / total * v[kv(first + n) + d];
        });
      }
    }
  }
  return out;
}
