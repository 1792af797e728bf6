/**
 * Models of odd shapes that transformers and PEFT make while the test runs, and what they compute: logits, losses, gradients and steps
 * of AdamW are the same here. Where Python lacks them, it says so; see interop_test.ts.
 */
// deno-lint-ignore-file no-console
import { backward } from "../../core/autograd.ts";
import { type Tensor, tensor } from "../../core/tensor.ts";
import { loadAdapter } from "../../train/adapters/peft.ts";
import { SafetensorsFile } from "../../train/files/safetensors.ts";
import type { LanguageModel } from "../../train/models/language_model.ts";
import { loadModel } from "../../train/models/load.ts";
import { TrainStep } from "../../train/step.ts";
import { assert, assertEquals, assertRelativeError } from "../assert.ts";
import { device } from "../device.ts";
import { batchOf } from "../own_labels.ts";
import { lacking, python } from "./python.ts";

const SCRIPT = new URL("random_models.py", import.meta.url).pathname;

/** A parameter's name without what PEFT puts around and into it. */
function plainName(name: string): string {
  return name.replace(/^base_model\.model\.|\.modules_to_save|\.default/g, "")
    .replace(/_vector\.weight$/, "_vector");
}

/** Compares logits, the loss and every gradient, whose names in the file begin with `prefix`. */
async function check(
  model: LanguageModel,
  golden: SafetensorsFile,
  prefix: string,
  [ids, labels]: readonly [Tensor, Tensor],
): Promise<void> {
  const logits = await model.forward(ids).read();
  assertRelativeError(logits, await golden.readFloats(`${prefix}logits`), 1e-5, "logits");
  const loss = model.loss(ids, labels);
  const [wanted] = await golden.readFloats(`${prefix}loss`);
  assert(Math.abs(await loss.item() / wanted - 1) < 1e-5, `loss ${await loss.item()}, ${wanted}`);
  backward(loss);
  const own = new Map([...model.parameters()].map(([name, t]) => [plainName(name), t]));
  const names = [...golden.entries.keys()].filter((key) => key.startsWith(`${prefix}grad.`));
  assertEquals(
    names.map((name) => plainName(name.slice(prefix.length + 5))).sort(),
    [
      ...own.keys(),
    ].sort(),
  );
  for (const name of names) {
    const grad = await own.get(plainName(name.slice(prefix.length + 5)))!.grad!.read();
    assertRelativeError(grad, await golden.readFloats(name), 1e-4, name);
  }
  for (const t of own.values()) t.grad = null;
}

/** Compares the steps of a training run. */
async function checkSteps(model: LanguageModel, golden: SafetensorsFile): Promise<void> {
  const [steps, rows, length] = golden.entries.get("batches")!.shape;
  const all = new Int32Array((await golden.read("batches")).buffer);
  const options = { mostTargets: rows * length, rows, length, weightDecay: 0.01, maxGradNorm: 1 };
  const step = new TrainStep(model, options);
  for (let i = 0; i < steps; i++) {
    step.run([batchOf(all.slice(i * rows * length, (i + 1) * rows * length), rows)], i + 1, 2e-3);
  }
  const told = await step.read();
  const losses = await golden.readFloats("losses");
  const norms = await golden.readFloats("norms");
  told.forEach(({ loss, gradNorm }, i) => {
    assert(Math.abs(loss / losses[i] - 1) < 1e-4, `step ${i}: loss ${loss}, wanted ${losses[i]}`);
    assert(Math.abs(gradNorm / norms[i] - 1) < 1e-4, `step ${i}: ${gradNorm}, ${norms[i]}`);
  });
  step.dispose();
}

Deno.test("models of odd shapes compute and learn as in transformers and PEFT", async (t) => {
  const reason = await lacking("torch, transformers, peft");
  if (reason) return console.log(`skipped: torch, transformers and peft are wanted (${reason})`);
  const root = await Deno.makeTempDir();
  try {
    const { code, text } = await python(SCRIPT, root);
    assertEquals(code, 0, text);
    for (const { name } of Deno.readDirSync(root)) {
      await t.step(name, async () => {
        const folder = `${root}/${name}`;
        using golden = await SafetensorsFile.open(`${folder}/expected.safetensors`);
        const read = async (key: string) => new Int32Array((await golden.read(key)).buffer);
        const { shape } = golden.entries.get("ids")!;
        const ids = tensor(device, await read("ids"), shape);
        const labels = tensor(device, await read("labels"), shape);
        const whole = await loadModel(device, folder, { trainable: "all" });
        await check(whole, golden, "", [ids, labels]);
        whole.dispose();
        const model = await loadModel(device, folder);
        await loadAdapter(model, `${folder}/adapter`);
        await check(model, golden, "adapter.", [ids, labels]);
        await checkSteps(model, golden);
        model.dispose();
      });
    }
  } finally {
    await Deno.remove(root, { recursive: true });
  }
});
