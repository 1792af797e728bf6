import { noGrad } from "../../../core/autograd.ts";
import { tensor } from "../../../core/tensor.ts";
import { randomModel } from "../../../train/models/load.ts";
import { generateTokens } from "../../../train/eval/generate.ts";
import type { LanguageModel } from "../../../train/models/language_model.ts";
import type { LinearLayer } from "../../../train/nn/linear.ts";
import { quantizeActivations } from "../../../train/quant/quantize_activations.ts";
import { onBoth } from "../../as_gpu.ts";
import { assert, assertEquals } from "../../assert.ts";
import { device } from "../../device.ts";
import { LLAMA, TEXT } from "../../tiny_models.ts";

const OPTIONS = [
  {},
  { weights: "int4", groupSize: 8 },
  { activations: "static", calibration: TEXT },
  { activations: "static", calibration: TEXT, kind: "asymmetric" },
] as const;

/** Qwen2 has biases on q, k and v. */
const QWEN2 = { ...LLAMA, "model_type": "qwen2" };

/** Dispatches of a token that is generated. */
async function perToken(model: LanguageModel): Promise<number> {
  const count = async (maxNewTokens: number) => {
    const before = device.counters.dispatches;
    await generateTokens(model, [Int32Array.of(1, 2, 3)], { maxNewTokens, endTokens: [] });
    return device.counters.dispatches - before;
  };
  await count(2);
  return (await count(9) - await count(5)) / 4;
}

/** Logits of a few tokens, computed as layers do that share nothing: somebody watches them. */
async function logits(model: LanguageModel, apart: boolean): Promise<Float32Array> {
  const layers: LinearLayer[] = Array.from(model.linearLayers(), ([, layer]) => layer);
  for (const layer of layers) layer.watcher = apart ? () => {} : null;
  const ids = tensor(device, Int32Array.of(5, 80, 33, 2, 7), [1, 5]);
  const found = await noGrad(() => model.forward(ids)).read() as Float32Array;
  for (const layer of layers) layer.watcher = null;
  return found;
}

Deno.test("a token of a model in whole numbers takes as many dispatches as with plain weights", () =>
  onBoth(async () => {
    const model = randomModel(device, LLAMA, { seed: 5 });
    const plain = await perToken(model);
    for (const options of OPTIONS) {
      const made = await quantizeActivations(model, options);
      const found = await perToken(model);
      if (device.adapter.type === "gpu") {
        // Apart, rounding and products are 15 more for each layer.
        assertEquals(found, plain, JSON.stringify(options));
      }
      made.restore();
    }
    model.dispose();
  }));

Deno.test("layers that share what they round compute what they compute apart, to the last bit", () =>
  onBoth(async () => {
    for (const config of [LLAMA, QWEN2]) {
      const model = randomModel(device, config, { seed: 6 });
      for (const options of OPTIONS) {
        const made = await quantizeActivations(model, options);
        const together = await logits(model, false);
        assertEquals(together, await logits(model, true), JSON.stringify(options));
        assert(together.every(Number.isFinite));
        made.restore();
      }
      model.dispose();
    }
  }));
