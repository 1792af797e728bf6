/**
 * Gains of normalizations, folded into the layers that read them: what folding a batch normalization is for a language model.
 *
 * @module
 */
import type { LanguageModel } from "../models/language_model.ts";
import { LinearLayer } from "../nn/linear.ts";
import { LayerNorm, RmsNorm } from "../nn/norm.ts";
import { canMove, MovedScales } from "./channel_scales.ts";

/** Gains that were folded. */
export interface FoldedGains {
  /** The normalizations, by path, whose gains are now 1. */
  readonly norms: readonly string[];
  /** Puts all weights back as they were. */
  restore(): void;
  /** Forgets how they were: until then the model's changed weights take their memory twice. */
  commit(): void;
}

/**
 * Multiplies the input columns of linear layers by the gains of the normalization that they read, and sets these gains to 1. The model
 * computes the same, and who quantizes its weights then rounds what really multiplies the normalized states. Unlike a batch
 * normalization, an RMS or layer normalization cannot go away: it depends on each token, and only its gain is constant. A gain of 0
 * stays, with its columns as they are. The final normalization stays too: embeddings may share its reader.
 *
 * @param model a model whose weights are not quantized
 * @returns what was folded, and the way back
 * @throws {TypeError} if a reader is quantized, or has an adapter, which reads the same input
 *
 * @example
 * ```ts
 * import { foldNormGains, loadModel, openDevice } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const model = await loadModel(device, "assets/base");
 * const { norms, commit } = await foldNormGains(model);
 * commit();
 * console.log(norms.length); // 8: two in each of four blocks
 * ```
 */
export async function foldNormGains(model: LanguageModel): Promise<FoldedGains> {
  const modules = new Map(model.modules());
  const moved = new MovedScales(model);
  const norms: string[] = [];
  const open = [...model.scalings()].flatMap((scaling) => {
    const norm = modules.get(scaling.source);
    return norm instanceof RmsNorm || norm instanceof LayerNorm ? [{ scaling, norm }] : [];
  });
  for (const { scaling } of open) {
    const withBranch = scaling.readers.find((path) => {
      const layer = modules.get(path);
      return layer instanceof LinearLayer && layer.branch;
    });
    if (withBranch !== undefined || !canMove(model, scaling)) {
      throw new TypeError(
        `Cannot fold the gain of "${scaling.source}" into ${
          withBranch === undefined ? "quantized weights" : `"${withBranch}", which has an adapter`
        }: load the model without quantize, and merge adapters first`,
      );
    }
  }
  const gains = await Promise.all(open.map(({ norm }) => norm.weight.read()));
  open.forEach(({ scaling }, i) => {
    moved.move(scaling, Float32Array.from(gains[i], (gain) => gain === 0 ? 1 : gain));
    norms.push(scaling.source);
  });
  return { norms, restore: () => moved.restore(), commit: () => moved.commit() };
}
