import { threefry } from "../../core/random.ts";

/** The specification of sample.ts for one row: sort, keep, draw. */
export function sampleRef(
  logits: ArrayLike<number>,
  options: { temperature: number; topK: number; topP: number },
  seed: number,
  step: number,
  stream: number,
): number {
  const { temperature, topK, topP } = options;
  const order = Array.from({ length: logits.length }, (_, i) => i)
    .sort((a, b) => logits[b] - logits[a] || a - b);
  if (temperature === 0) return order[0];
  let kept = topK > 0 ? order.filter((i) => logits[i] >= logits[order[topK - 1]]) : order;
  const weight = (i: number) => Math.exp((logits[i] - logits[order[0]]) / temperature);
  const total = kept.reduce((sum, i) => sum + weight(i), 0);
  if (topP < 1) {
    let mass = 0;
    let last = 0;
    while (mass < topP * total) mass += weight(kept[last++]);
    kept = kept.slice(0, last);
  }
  const score = (i: number) => {
    const bits = threefry([seed, stream], [step, i])[0];
    return logits[i] / temperature - Math.log(-Math.log(((bits >>> 9) + 0.5) * 2 ** -23));
  };
  return kept.reduce((best, i) => score(i) > score(best) ? i : best);
}
