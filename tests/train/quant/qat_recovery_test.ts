/** Quantization-aware training of the embedded model, long enough to see what it is for. */
import { IntegerTensor } from "../../../kernels/quant/integer.ts";
import { tokenStream } from "../../../train/data/dataset.ts";
import { chunk } from "../../../train/data/packing.ts";
import { evaluatePerplexity } from "../../../train/eval/perplexity.ts";
import { train } from "../../../train/loop.ts";
import type { LanguageModel } from "../../../train/models/language_model.ts";
import { loadModel } from "../../../train/models/load.ts";
import { QuantizedLinear } from "../../../train/nn/linear.ts";
import { convertQat } from "../../../train/quant/qat_convert.ts";
import { prepareQat } from "../../../train/quant/qat.ts";
import { assert } from "../../assert.ts";
import { device } from "../../device.ts";

const ASSETS = new URL("../../../assets/", import.meta.url).pathname;
const BASE = `${ASSETS}base`;

/** Tokens of a row. */
const LENGTH = 64;

/** So many entries make a document, as in pretraining. */
const ENTRIES = 16;

/** Every fourth document of those that the model was pretrained on. */
async function trainingText(): Promise<string[]> {
  const lines = (await Deno.readTextFile(`${ASSETS}wordnet/train.jsonl`)).trimEnd().split("\n");
  return Array.from({ length: Math.floor(lines.length / ENTRIES / 4) }, (_, i) => {
    const entries = lines.slice(4 * i * ENTRIES, (4 * i + 1) * ENTRIES).map((line) => {
      const { lemma, prompt } = JSON.parse(line);
      return `${lemma}: ${prompt.replace(/\nCategory:$/, "")}\n`;
    });
    return entries.join("");
  });
}

Deno.test("training with 2-bit weights recovers half of what rounding to 2 bits costs, in whole numbers", async () => {
  const teacher = await loadModel(device, BASE);
  const tokenizer = teacher.tokenizer!;
  const heldOut = await Deno.readTextFile(`${ASSETS}wordnet/heldout.txt`);
  const ids = tokenizer.encode(heldOut.slice(0, 20_000)).slice(0, 5120);
  const lossOf = async (model: LanguageModel) =>
    Math.log((await evaluatePerplexity(model, ids, { window: 256 })).perplexity);
  const plain = await lossOf(teacher);

  // Rounded to nearest, asymmetric, in groups of 64.
  const model = await loadModel(device, BASE, { trainable: "all" });
  const weights = { bits: 2, step: "learnt", kind: "asymmetric" } as const;
  await prepareQat(model, { weights });
  const rounded = await lossOf(model);
  assert(rounded > plain + 1, `${plain} became ${rounded}`);

  const data = chunk(tokenStream(tokenizer, await trainingText()), LENGTH);
  const size = { steps: 72, batchSize: 4, length: LENGTH, seed: 1 };
  const rate = { learningRate: 1e-3, warmup: 5, schedule: "linear", betas: [0.9, 0.98] } as const;
  for await (const _ of train(model, data, { ...size, ...rate, teacher }));
  await convertQat(model);
  for (const [, layer] of model.linearLayers()) {
    assert(layer instanceof QuantizedLinear && layer.weight instanceof IntegerTensor);
  }
  const trained = await lossOf(model);
  const recovered = (rounded - trained) / (rounded - plain);
  assert(recovered >= 0.5, `${recovered} of it: ${plain}, ${rounded}, ${trained}`);
});
