/**
 * What a model's linear layers are stored in, in words.
 *
 * @module
 */
import { QuantizedLinear } from "../nn/linear.ts";
import type { LanguageModel } from "./language_model.ts";

/** Schemes with the number of layers and bytes: "28 layers in nf4, 602496 bytes". Plain weights are "plain", in 16 bits or 32. */
export function storedAs(model: LanguageModel): string {
  const layers = [...model.linearLayers()].map(([, layer]) => layer);
  const kinds = Map.groupBy(
    layers,
    (layer) => layer instanceof QuantizedLinear ? layer.weight.scheme : "plain",
  );
  return [...kinds].map(([kind, own]) => {
    const quantized = own.filter((layer) => layer instanceof QuantizedLinear);
    const bytes = quantized.reduce((sum, layer) => sum + layer.weight.bytes, 0);
    return `${own.length} layers in ${kind}${bytes > 0 ? `, ${bytes} bytes` : ""}`;
  }).join("; ");
}
