import { addLora } from "../../train/adapters/lora.ts";
import type { LoraOptions } from "../../train/adapters/lora_options.ts";
import { loadCheckpoint, saveCheckpoint } from "../../train/checkpoint.ts";
import type { LanguageModel } from "../../train/models/language_model.ts";
import { randomModel } from "../../train/models/load.ts";
import type { Sequence } from "../../train/data/dataset.ts";
import { train, Trainer, type TrainOptions } from "../../train/loop.ts";
import { assert, assertEquals, assertRejects, assertThrows } from "../assert.ts";
import { device, randomIntegers } from "../device.ts";

function smallModel(seed: number, trainable: "all" | "none" = "all"): LanguageModel {
  return randomModel(device, {
    model_type: "llama",
    vocab_size: 96,
    hidden_size: 32,
    intermediate_size: 64,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    max_position_embeddings: 64,
    tie_word_embeddings: true,
  }, { seed, trainable });
}

function smallGpt2(seed: number): LanguageModel {
  return randomModel(device, {
    model_type: "gpt2",
    vocab_size: 96,
    n_embd: 32,
    n_layer: 2,
    n_head: 4,
    n_positions: 64,
  }, { seed, trainable: "all" });
}

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
  const model = smallModel(3);
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
  for (const other of [{ replay: false }, { readEvery: 4 }, { overlap: true, recompute: true }]) {
    const { losses, norms, model } = await trained(sequences, { ...options, ...other });
    assertEquals(losses, captured.losses);
    assertEquals(norms, captured.norms);
    assertEquals(await weightsOf(model), wanted);
  }
});

Deno.test("gradient checkpointing gives bit-identical weights, captured and eager, with dropout", async () => {
  const sequences = makeSequences(60, "all");
  const options = { steps: 4, batchSize: 2, length: 64, learningRate: 1e-2 };
  const run = async (architecture: "llama" | "gpt2", more: TrainOptions) => {
    const model = architecture === "llama" ? smallModel(3) : smallGpt2(3);
    addLora(model, { r: 4, dropout: 0.2, seed: 1 });
    using trainer = new Trainer(model, sequences, { ...options, ...more });
    if (more.checkpointing) trainer.memory();
    const losses: number[] = [];
    for await (const { loss } of trainer.run()) losses.push(loss);
    return { losses, weights: await weightsOf(model) };
  };
  for (const architecture of ["llama", "gpt2"] as const) {
    const plain = await run(architecture, {});
    for (const keep of [0, 1, 9]) {
      assertEquals(await run(architecture, { checkpointing: { keep } }), plain);
    }
    const again = { recompute: true, checkpointing: { keep: 1 } };
    assertEquals(await run(architecture, again), plain);
    assertEquals(await run(architecture, { checkpointing: true, replay: false }), plain);
    assertEquals(await run(architecture, { overlap: true, recompute: true }), plain);
  }
});

Deno.test("Trainer.memory() says before the first step what a run will hold, and checkpointing makes it less", async () => {
  const sequences = makeSequences(60, "all");
  const found: number[] = [];
  for (const checkpointing of [false, { keep: 1 }, true]) {
    const before = device.memory.live;
    const model = smallModel(3);
    // Small work side by side, as a GPU has it, takes memory that checkpointing would give back.
    const options = { steps: 4, batchSize: 4, length: 64, checkpointing, overlap: false };
    using trainer = new Trainer(model, sequences, options);
    const { held, state, step, peak } = trainer.memory();
    assert(held >= before + model.weightBytes);
    // the gradient and two moments, each with up to 63 zeros behind a tensor
    const { total } = model.count();
    assert(state >= 12 * total && state < 13 * total + 65_536, `${state} for ${total}`);
    assertEquals(held + state + step, peak);
    assertEquals(trainer.step, 0);
    device.pool.resetPeak();
    for await (const _ of trainer.run());
    assertEquals(device.memory.peak, peak);
    found.push(step);
    model.dispose();
  }
  // with the last of two blocks kept, it is freed before the first is computed again
  assert(found[1] < found[0] && found[2] <= found[1], `${found}`);
  using eager = new Trainer(smallModel(3), sequences, { steps: 4, length: 64, replay: false });
  assertEquals(eager.memory().step, 0);
});

Deno.test("Trainer.rows is how many rows of a batch the data fill at most", () => {
  const model = smallModel(0);
  const rows = (count: number, batchSize: number) => {
    using trainer = new Trainer(model, makeSequences(count, "all"), { batchSize, length: 64 });
    return trainer.rows;
  };
  assertEquals([rows(1, 8), rows(60, 2)], [1, 2]);
  assert(rows(8, 50) < 9, `${rows(8, 50)} rows`);
});

Deno.test("a run that was stopped and resumed gives the same bytes", async () => {
  const sequences = makeSequences(60, "last");
  const options = { steps: 12, batchSize: 2, length: 64, learningRate: 1e-2, seed: 5 };
  const whole = await trained(sequences, options);
  const path = `${await Deno.makeTempDir()}/run.safetensors`;
  {
    const model = smallModel(3);
    using trainer = new Trainer(model, sequences, options);
    for await (const _ of trainer.run(5));
    await saveCheckpoint(trainer, path);
  }
  const model = smallModel(4);
  using trainer = new Trainer(model, sequences, options);
  await loadCheckpoint(trainer, path);
  const losses: number[] = [];
  for await (const { loss } of trainer.run()) losses.push(loss);
  assertEquals(losses, whole.losses.slice(5));
  assertEquals(await weightsOf(model), await weightsOf(whole.model));
});

Deno.test("a checkpoint of another run is refused", async () => {
  const sequences = makeSequences(10, "all");
  const path = `${await Deno.makeTempDir()}/run.safetensors`;
  const model = smallModel(0);
  using trainer = new Trainer(model, sequences, { steps: 4, length: 64 });
  await saveCheckpoint(trainer, path);
  using other = new Trainer(model, sequences, { steps: 5, length: 64 });
  await assertRejects(
    () => loadCheckpoint(other, path),
    TypeError,
    'made with {"steps":4}, this run has {"steps":5}; use',
  );
});

Deno.test("a checkpoint of an adapter with another alpha, scaling or dropout is refused", async () => {
  const sequences = makeSequences(10, "all");
  const options = { steps: 4, length: 64 };
  const path = `${await Deno.makeTempDir()}/run.safetensors`;
  const save = async (lora: LoraOptions, resume: boolean) => {
    const model = smallModel(0, "none");
    addLora(model, { r: 2, ...lora });
    using trainer = new Trainer(model, sequences, options);
    await (resume ? loadCheckpoint : saveCheckpoint)(trainer, path);
  };
  await save({ alpha: 4 }, false);
  await save({ alpha: 4, seed: 1 }, true);
  const cases: [LoraOptions, string][] = [
    [{ alpha: 8 }, "LoRA of alpha 8, dropout 0"],
    [{ alpha: 4, dropout: 0.5 }, "LoRA of alpha 4, dropout 0.5"],
    [{ alpha: 4, useRslora: true }, "rsLoRA of alpha 4"],
    [{ alpha: 4, alphaPattern: { q_proj: 8 } }, "alpha 4 and "],
  ];
  for (const [lora, said] of cases) await assertRejects(() => save(lora, true), TypeError, said);
});

Deno.test("train() says what is wrong with its options, its data and its model", () => {
  const model = smallModel(0);
  const sequences = makeSequences(3, "all");
  for (
    const [options, said] of [
      [{ steps: 0 }, "steps: 0"],
      [{ epochs: 1.5 }, "epochs: 1.5"],
      [{ batchSize: 0 }, "batch size of 0"],
      [{ learningRate: -1 }, "learning rate -1"],
      [{ length: 65 }, "context has 64 positions"],
      [{ betas: [0.9, 1] }, "beta 1"],
      [{ checkpointing: { keep: -1 } }, "what -1 blocks compute"],
    ] as const
  ) assertThrows(() => new Trainer(model, sequences, options), RangeError, said);
  assertThrows(() => new Trainer(model, []), RangeError, "empty data set");
  assertThrows(() => new Trainer(model, ["a text"]), TypeError, "no tokenizer");
  const frozen = smallModel(0, "none");
  assertThrows(() => new Trainer(frozen, sequences), TypeError, "addLora");
});

Deno.test("a step makes no bind group once one has run", async () => {
  const model = smallModel(0);
  using trainer = new Trainer(model, makeSequences(40, "all"), {
    steps: 12,
    length: 64,
    batchSize: 2,
  });
  for await (const _ of trainer.run(2));
  const before = device.counters;
  for await (const _ of trainer.run());
  assertEquals(device.counters.bindGroups, before.bindGroups);
  assertEquals(device.counters.pipelines, before.pipelines);
});

Deno.test("a loss that is no number ends the run with advice", async () => {
  const model = smallModel(0);
  const run = train(model, makeSequences(20, "all"), {
    steps: 30,
    length: 64,
    learningRate: 1e30,
    maxGradNorm: 0,
  });
  await assertRejects(
    async () => {
      for await (const _ of run);
    },
    Error,
    "Lower the learning rate",
  );
});
