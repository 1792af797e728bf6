import { backward, noGrad } from "../../../core/autograd.ts";
import { tensor } from "../../../core/tensor.ts";
import { addLora, lorasOn, mergeAdapter } from "../../../train/adapters/lora.ts";
import type { LoraOptions } from "../../../train/adapters/lora_options.ts";
import { loadModel } from "../../../train/models/load.ts";
import { Linear, QuantizedLinear } from "../../../train/nn/linear.ts";
import { FlatParameters } from "../../../train/optim/flat_parameters.ts";
import { assert, assertEquals, assertRelativeError, assertThrows } from "../../assert.ts";
import { device, randomNumbers } from "../../device.ts";
import { GOLDEN, goldenInts, someIds, tinyModel } from "./models.ts";

/** B is zero at first: numbers in it, so that the branch does something. */
function fillB(lora: ReturnType<typeof addLora>): void {
  let seed = 5;
  for (const { b } of lora.branches.values()) {
    device.write(b, randomNumbers(b.size, seed++, 0.1));
  }
}

Deno.test("addLora() changes nothing at first: A is Kaiming-uniform, B zero", async () => {
  const model = tinyModel();
  const ids = someIds();
  const before = await noGrad(() => model.forward(ids)).read();
  const lora = addLora(model, { r: 4, seed: 1 });
  assertEquals(await noGrad(() => model.forward(ids)).read(), before);
  assertEquals(lora.branches.size, 14);
  const { a, b, scaling } = lora.branches.get("model.layers.1.mlp.down_proj")!;
  assertEquals([a.shape, b.shape, scaling], [[4, 64], [32, 4], 4]);
  const numbers = await a.read();
  const bound = 1 / Math.sqrt(64);
  assert(numbers.every((number) => Math.abs(number) <= bound));
  assert(numbers.some((number) => number > 0.9 * bound));
  assert(numbers.some((number) => number < -0.9 * bound));
  assert((await b.read()).every((number) => number === 0));
  assertEquals(model.count().trainable, lora.count);
  assertEquals(lora.bytes, 4 * lora.count);
  model.dispose();
});

Deno.test("addLora() draws by its seed, and another A for each layer", async () => {
  const draw = async (seed: number) => {
    const model = tinyModel();
    const { branches } = addLora(model, { r: 2, seed, targetModules: ["q_proj"] });
    const numbers = [...branches.values()].map(({ a }) => a.read());
    return await Promise.all(numbers);
  };
  const [first, again, other] = [await draw(1), await draw(1), await draw(2)];
  assertEquals(first, again);
  assert(first[0].some((number, i) => number !== first[1][i]));
  assert(first[0].some((number, i) => number !== other[0][i]));
});

Deno.test("addLora() scales by alpha / r or alpha / √r, by layer where patterns say so", () => {
  const scalings = (options: LoraOptions) => {
    const lora = addLora(tinyModel(), { targetModules: ["q_proj", "v_proj"], ...options });
    return [...lora.branches.values()].slice(0, 2).map(({ r, scaling }) => [r, scaling]);
  };
  assertEquals(scalings({}), [[8, 2], [8, 2]]);
  assertEquals(scalings({ r: 4, alpha: 8, useRslora: true }), [[4, 4], [4, 4]]);
  assertEquals(
    scalings({ r: 4, alpha: 8, rankPattern: { v_proj: 2 }, alphaPattern: { q_proj: 1 } }),
    [[4, 0.25], [2, 4]],
  );
});

Deno.test("addLora() freezes the model, and remove() leaves it as it was", async () => {
  const model = tinyModel("all");
  const ids = someIds();
  const before = await noGrad(() => model.forward(ids)).read();
  const { trainable } = model.count();
  const lora = addLora(model, { r: 2, dropout: 0.5 });
  fillB(lora);
  assertEquals(model.count().trainable, lora.count);
  lora.merge();
  lora.remove();
  lora.remove();
  assertEquals(model.count(), { total: trainable, trainable });
  assertEquals(await noGrad(() => model.forward(ids)).read(), before);
  assertEquals(lorasOn(model), []);
  model.dispose();
});

Deno.test("addLora() names what is wrong with its options", () => {
  const model = tinyModel();
  const fails = (options: LoraOptions, text: string) =>
    assertThrows(() => addLora(model, options), RangeError, text);
  fails({ r: 0 }, "found r 0, wanted a whole number of at least 1");
  fails({ r: 1.5 }, "found r 1.5");
  fails({ alpha: 0 }, "found alpha 0, wanted a number above 0");
  fails({ alpha: NaN }, "found alpha NaN");
  fails({ dropout: 1 }, "found dropout 1, wanted a probability");
  fails({ dropout: NaN }, "found dropout NaN");
  fails({ seed: 0.5 }, "Cannot seed with 0.5");
  fails({ rankPattern: { q_proj: 0 } }, 'found the rank of "q_proj" 0');
  fails({ alphaPattern: { q_proj: -1 } }, 'found the alpha of "q_proj" -1');
  fails({ rankPattern: { "layers.0": 4 } }, `none of the adapter's that "layers.0" in rankPattern`);
  fails(
    { targetModules: ["v_proj"], alphaPattern: { q_proj: 4 } },
    '"q_proj" in alphaPattern means',
  );
  fails({ targetModules: ["q_porj"] }, 'did you mean "q_proj"?');
  fails({ targetModules: ["lm_head"] }, 'found no linear layer "lm_head"');
  assertEquals([...model.parameters()], []);
});

Deno.test("a model whose only adapter is merged cannot be trained, and says why", () => {
  const model = tinyModel();
  const lora = addLora(model, { r: 2 });
  lora.merge();
  assertThrows(
    () => new FlatParameters(model.parameters()),
    TypeError,
    "unmerge() one that is merged",
  );
  lora.remove();
});

Deno.test("a layer takes one adapter, a model several", () => {
  const model = tinyModel();
  const first = addLora(model, { targetModules: ["q_proj"] });
  assertThrows(
    () => addLora(model, { targetModules: ["v_proj", "q_proj"] }),
    TypeError,
    'Cannot add LoRA to "model.layers.0.self_attn.q_proj": found an adapter on it',
  );
  const second = addLora(model, { targetModules: ["v_proj"] });
  assertEquals(lorasOn(model), [first, second]);
  first.merge();
  assertThrows(() => addLora(model, { targetModules: ["k_proj"] }), TypeError, "found another one");
  first.unmerge();
  addLora(model, { targetModules: ["k_proj"] });
});

Deno.test("merging has an order", () => {
  const model = tinyModel();
  assertThrows(() => mergeAdapter(model), TypeError, "found none on the model");
  const lora = addLora(model);
  assertThrows(() => lora.unmerge(), TypeError, "found it not merged");
  lora.merge();
  assertThrows(() => lora.merge(), TypeError, "found it merged already");
  mergeAdapter(model);
  assertThrows(() => lora.merge(), TypeError, "found it removed, or merged for good");
  assertThrows(() => lora.unmerge(), TypeError, "found it not merged");
  assertThrows(() => mergeAdapter(model), TypeError, "found none on the model");
  const other = addLora(model, { targetModules: ["q_proj"] });
  const path = "model.layers.0.self_attn.q_proj";
  const old = new Map(model.linearLayers()).get(path)!;
  model.replaceLinear(path, new Linear(old.dense(), old.bias));
  assertThrows(() => other.merge(), TypeError, `found another layer at "${path}"`);
});

Deno.test("adapters that were trained together are freed apart", async () => {
  const model = tinyModel();
  const ids = someIds();
  const [first, second] = ["q_proj", "v_proj"].map((name) =>
    addLora(model, { targetModules: [name] })
  );
  fillB(second);
  const before = await noGrad(() => model.forward(ids)).read();
  new FlatParameters(model.parameters()).dispose();
  first.remove();
  assertEquals(await noGrad(() => model.forward(ids)).read(), before);
  const third = addLora(model, { targetModules: ["k_proj"] });
  new FlatParameters(model.parameters()).dispose();
  assertEquals(lorasOn(model), [second, third]);
  mergeAdapter(model);
  assertRelativeError(await noGrad(() => model.forward(ids)).read(), before, 1e-5);
});

Deno.test("adding and removing adapters, merging and unmerging leave no memory behind", async () => {
  const model = tinyModel();
  const live = () => device.memory.live;
  const start = live();
  const lora = addLora(model, { dropout: 0.1 });
  const added = live();
  lora.merge();
  lora.unmerge();
  assertEquals(live(), added);
  lora.remove();
  assertEquals(live(), start);
  addLora(model);
  mergeAdapter(model);
  assertEquals(live(), start);
  await device.finish();
});

Deno.test("dropout is on in training only, and follows the step", async () => {
  const model = tinyModel();
  const ids = someIds();
  assertEquals(addLora(tinyModel()).dropoutState, null);
  const lora = addLora(model, { dropout: 0.5, seed: 9 });
  fillB(lora);
  const logits = () => noGrad(() => model.forward(ids)).read();
  const state = lora.dropoutState!;
  assertEquals(await state.read(), Uint32Array.of(9, 0));
  const still = await logits();
  lora.training = true;
  const first = await logits();
  assert(first.some((number, i) => number !== still[i]));
  assertEquals(await logits(), first);
  device.write(state, Uint32Array.of(9, 1));
  assert((await logits()).some((number, i) => number !== first[i]));
  device.write(state, Uint32Array.of(9, 0));
  assertEquals(await logits(), first);
  lora.training = false;
  assertEquals(await logits(), still);
});

Deno.test("the gradient of LoRA with dropout is that of the loss", async () => {
  const model = tinyModel();
  const ids = someIds();
  const lora = addLora(model, { r: 2, dropout: 0.3, targetModules: ["v_proj", "down_proj"] });
  fillB(lora);
  lora.training = true;
  backward(model.loss(ids, ids));
  await checkSlopes(lora, async () => await noGrad(() => model.loss(ids, ids)).item());
});

/** Compares the gradient along itself with the difference of two losses. */
async function checkSlopes(
  lora: ReturnType<typeof addLora>,
  loss: () => Promise<number>,
): Promise<void> {
  for (const [name, parameter] of lora.parameters()) {
    const [values, grad] = await Promise.all([parameter.read(), parameter.grad!.read()]);
    const norm = Math.hypot(...grad);
    assert(norm > 0, name);
    const at = async (step: number) => {
      device.write(parameter, Float32Array.from(values, (v, i) => v + step * grad[i] / norm));
      return await loss();
    };
    const size = 0.005;
    const slope = (await at(size) - await at(-size)) / (2 * size);
    device.write(parameter, values);
    assert(Math.abs(slope - norm) <= 0.005 * norm + 5e-5, `${name}: ${slope}, expected ${norm}`);
  }
}

Deno.test("LoRA on an NF4 model: outputs and gradients are those on the decoded model", async () => {
  const folder = `${GOLDEN}llama`;
  const ids = await goldenInts(folder, "input_ids");
  const options = { r: 4, seed: 2, targetModules: "all-linear" };
  const quantized = await loadModel(device, folder, { quantize: "nf4", doubleQuant: true });
  const decoded = await loadModel(device, folder);
  for (const [path, layer] of quantized.linearLayers()) {
    decoded.replaceLinear(path, new Linear(layer.dense(), layer.bias));
  }
  const loras = [quantized, decoded].map((model) => {
    const lora = addLora(model, options);
    fillB(lora);
    return lora;
  });
  const [a, b] = await Promise.all(loras.map(({ model }) => {
    const loss = model.loss(ids, ids);
    backward(loss);
    return loss.item();
  }));
  assert(Math.abs(a - b) < 1e-5);
  const wanted = new Map(loras[1].parameters());
  for (const [name, own] of loras[0].parameters()) {
    const grad = await own.grad!.read();
    assertRelativeError(grad, await wanted.get(name)!.grad!.read(), 2e-5, name);
  }

  const logits = () => noGrad(() => quantized.forward(ids)).read();
  const before = await logits();
  const { weightBytes } = quantized;
  loras[0].merge();
  assertRelativeError(await logits(), before, 1e-5);
  for (const [, layer] of quantized.linearLayers()) assert(layer instanceof Linear);
  loras[0].unmerge();
  for (const [, layer] of quantized.linearLayers()) assert(layer instanceof QuantizedLinear);
  assertEquals(quantized.weightBytes, weightBytes);
  assertEquals(await logits(), before);
  mergeAdapter(quantized);
  assertRelativeError(await logits(), before, 1e-5);
});

Deno.test("merging adds scaling · B · A to the weight", async () => {
  const model = tinyModel();
  const path = "model.layers.0.self_attn.k_proj";
  const weightOf = () => new Map(model.linearLayers()).get(path)!.dense();
  const before = await weightOf().read();
  const lora = addLora(model, { r: 1, alpha: 3, targetModules: [path] });
  const { a, b } = lora.branches.get(path)!;
  const [inner, outer] = [randomNumbers(32, 1), randomNumbers(32, 2)];
  device.copy(tensor(device, inner, a.shape), a);
  device.copy(tensor(device, outer, b.shape), b);
  lora.merge();
  const wanted = before.map((w, i) => w + 3 * outer[Math.floor(i / 32)] * inner[i % 32]);
  assertRelativeError(await weightOf().read(), wanted, 1e-6);
});
