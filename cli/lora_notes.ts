/**
 * What is worth a second look in the adapter that `train` was asked for.
 *
 * @module
 */
import { showShape } from "../core/shape.ts";
import type { Lora } from "../train/adapters/lora.ts";

/** QLoRA's own alpha of 16 at rank 64 (Dettmers et al., arXiv 2305.14314); below, an adapter hardly shows at usual rates. */
const LEAST_SCALING = 0.25;

/** Notes on rank and alpha, a line each; none where both are usual. */
export function loraNotes({ branches, options }: Lora): string[] {
  const notes: string[] = [];
  const { r, alpha, useRslora } = options;
  if (!useRslora && alpha / r < LEAST_SCALING) {
    const factor = Number((alpha / r).toPrecision(2));
    notes.push(
      `Alpha ${alpha} at rank ${r} takes the adapter times ${factor}, so it learns slowly; usual are ` +
        `alpha ${r} and ${2 * r}, or --rslora for high ranks`,
    );
  }
  const large = [...branches].filter(([, { a, b }]) => a.size + b.size > b.shape[0] * a.shape[1]);
  if (large.length > 0) {
    const [path, { a, b }] = large[0];
    const shape = showShape([b.shape[0], a.shape[1]]);
    notes.push(
      `Rank ${r} is too large for ${large.length} of ${branches.size} layers: ${path} ${shape} ` +
        "has fewer numbers than its adapter; take a lower rank",
    );
  }
  return notes;
}
