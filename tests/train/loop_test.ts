import type { LanguageModel } from "../../train/models/language_model.ts";
import { randomModel } from "../../train/models/load.ts";
import type { Sequence } from "../../train/data/dataset.ts";
import { Trainer, type TrainOptions } from "../../train/loop.ts";
import { assert, assertEquals } from "../assert.ts";
import { device, randomIntegers } from "../device.ts";

const CONFIG = {
  model_type: "llama",
  vocab_size: 96,
  hidden_size: 32,
  intermediate_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 64,
  tie_word_embeddings: true,
};

/** Sequences in which each token follows from the one before, with labels at the end only or everywhere. */
function makeSequences(count: number, labels: "all" | "last"): Sequence[] {
  return Array.from({ length: count }, (_, i) => {
    const start = randomIntegers(1, 96, i)[0];
    const length = 5 + i % 20;
    const ids = Int32Array.from({ length }, (_, j) => (start + 7 * j) % 96);
    const next = ids.map((id) => (id + 7) % 96);
    return { ids, labels: labels === "all" ? next : next.fill(-100, 0, length - 2) };
  });
}

async function trained(
  sequences: Sequence[],
  options: TrainOptions,
): Promise<{ losses: number[]; norms: number[]; model: LanguageModel }> {
  const model = randomModel(device, CONFIG, { seed: 3, trainable: "all" });
  using trainer = new Trainer(model, sequences, { length: 64, learningRate: 1e-2, ...options });
  const losses: number[] = [];
  const norms: number[] = [];
  for await (const { loss, gradNorm } of trainer.run()) {
    losses.push(loss);
    norms.push(gradNorm);
  }
  return { losses, norms, model };
}

async function weightsOf(model: LanguageModel): Promise<Uint8Array> {
  const parts = await Promise.all([...model.parameters()].map(([, t]) => t.read()));
  return new Uint8Array(
    await new Blob(parts.map((part) => part as Float32Array<ArrayBuffer>)).arrayBuffer(),
  );
}

Deno.test("train() learns", async () => {
  for (const labels of ["all", "last"] as const) {
    const { losses } = await trained(makeSequences(60, labels), { steps: 40, batchSize: 4 });
    assertEquals(losses.length, 40);
    assert(losses[0] > 4 && losses[39] < 2, `${labels}: from ${losses[0]} to ${losses[39]}`);
  }
});

Deno.test("eager and captured runs give bit-identical weights, whenever losses are read", async () => {
  const sequences = makeSequences(60, "last");
  const options = { steps: 6, batchSize: 2, accumulation: 2, weightDecay: 0.1 };
  const captured = await trained(sequences, options);
  const wanted = await weightsOf(captured.model);
  for (const other of [{ replay: false }, { readEvery: 4 }]) {
    const { losses, norms, model } = await trained(sequences, { ...options, ...other });
    assertEquals(losses, captured.losses);
    assertEquals(norms, captured.norms);
    assertEquals(await weightsOf(model), wanted);
  }
});
