/** All of SmolLM2's linear layers in W8A8 with static activations, on a few tokens: `bench/quantization.md` has many. */
import { noGrad } from "../../../core/autograd.ts";
import { tensor } from "../../../core/tensor.ts";
import { divergenceOf, logSumExp } from "../../../train/eval/divergence.ts";
import type { LanguageModel } from "../../../train/models/language_model.ts";
import { loadModel } from "../../../train/models/load.ts";
import { rotateLayers } from "../../../train/quant/rotate_layers.ts";
import { assert } from "../../assert.ts";
import { device } from "../../device.ts";
import { smolLm2Test as test } from "../../smollm2.ts";

const TEXT = new URL("../../golden/smollm2/text.txt", import.meta.url);
const HELDOUT = new URL("../../../assets/wordnet/heldout.txt", import.meta.url);

/** A model's logits at every place of a text. */
async function logitsOf(model: LanguageModel, ids: Int32Array<ArrayBuffer>): Promise<Float32Array> {
  using logits = device.scope(() =>
    noGrad(() => device.keep(model.forward(tensor(device, ids, [1, ids.length]))))
  );
  return await logits.read() as Float32Array;
}

/** The mean loss of the tokens behind the first. */
function lossOf(logits: Float32Array, ids: Int32Array, vocabulary: number): number {
  let sum = 0;
  for (let i = 1; i < ids.length; i++) {
    const row = logits.subarray((i - 1) * vocabulary, i * vocabulary);
    sum += logSumExp(row) - row[ids[i]];
  }
  return sum / (ids.length - 1);
}

// Without turning, with all layers static, the divergence is 0.63 here, and the loss 0.57 higher.
test("static activations in all layers, calibrated on dictionary entries, predict prose as f32 does", async (path) => {
  const model = await loadModel(device, path, { dequantize: true, weights: "f32" });
  try {
    const { vocabSize } = model.config;
    const encode = async (url: URL, count: number) =>
      model.tokenizer!.encode((await Deno.readTextFile(url)).slice(0, 8 * count)).slice(0, count);
    const [ids, calibration] = [await encode(TEXT, 192), await encode(HELDOUT, 512)];
    const before = await logitsOf(model, ids);
    // A wide margin, as few tokens do not show how far activations go.
    (await rotateLayers(model, { text: { ids: calibration }, margin: 1.3 })).commit();
    const after = await logitsOf(model, ids);
    const divergence = divergenceOf(before, after, vocabSize);
    assert(divergence > 0 && divergence < 0.03, `divergence ${divergence}`);
    const [wanted, found] = [before, after].map((own) => lossOf(own, ids, vocabSize));
    assert(Math.abs(found - wanted) < 0.04, `loss ${found}, ${wanted} in f32`);
  } finally {
    model.dispose();
    device.trim();
  }
});
