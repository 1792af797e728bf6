import { noGrad } from "../../../core/autograd.ts";
import type { Tensor } from "../../../core/tensor.ts";
import { addLora, mergeAdapter } from "../../../train/adapters/lora.ts";
import { loadAdapter, saveAdapter } from "../../../train/adapters/peft.ts";
import { largestSingular } from "../../../train/adapters/svd.ts";
import type { LanguageModel } from "../../../train/models/language_model.ts";
import { loadModel } from "../../../train/models/load.ts";
import { assert, assertEquals, assertRejects, assertRelativeError } from "../../assert.ts";
import { device, randomNumbers } from "../../device.ts";
import { GOLDEN, goldenInts, someIds, tinyModel } from "./models.ts";

const logits = (model: LanguageModel, ids: Tensor) => noGrad(() => model.forward(ids)).read();
const PATH = "model.layers.0.mlp.up_proj";

Deno.test('init: "gaussian" draws A with deviation 1 / r, and B is zero', async () => {
  const model = tinyModel();
  const ids = someIds();
  const before = await logits(model, ids);
  const { branches } = addLora(model, { r: 4, init: "gaussian", seed: 3 });
  assertEquals(await logits(model, ids), before);
  const all = await Promise.all([...branches.values()].map(({ a }) => a.read()));
  const numbers = all.flatMap((a) => [...a]);
  const deviation = Math.sqrt(numbers.reduce((sum, x) => sum + x * x, 0) / numbers.length);
  assert(Math.abs(deviation - 0.25) < 0.015, `deviation ${deviation}`);
});

for (const init of ["pissa", "olora"] as const) {
  Deno.test(`init: "${init}": layers keep the rest, and the sum is what it was`, async () => {
    const model = tinyModel();
    const ids = someIds();
    const before = await logits(model, ids);
    const weightOf = () => new Map(model.linearLayers()).get(PATH)!.dense();
    const original = await weightOf().read();
    const lora = await addLora(model, { r: 4, alpha: 2, init, rankPattern: { "q_proj": 3 } });
    assertRelativeError(await logits(model, ids), before, 1e-5);
    const rest = await weightOf().read();
    const { a, b } = lora.branches.get(PATH)!;
    if (init === "pissa") {
      // No matrix of this rank is nearer: what is left has the smaller singular values alone.
      const { values } = largestSingular(original, 64, 32, 32);
      const left = Math.hypot(...values.subarray(4));
      assert(Math.abs(Math.hypot(...rest) / left - 1) < 1e-6);
      // A and B share the singular values, scaled, between them.
      assert(Math.abs(Math.hypot(...await a.read()) / Math.hypot(...await b.read()) - 1) < 1e-6);
    } else {
      const column = [...await b.read()].filter((_, at) => at % 4 === 1);
      assert(Math.abs(Math.hypot(...column) - 1) < 1e-6);
      // alpha / r is 1/2: half of the first columns stays.
      for (let i = 0; i < 64; i++) assert(Math.abs(rest[32 * i] - original[32 * i] / 2) < 1e-7);
    }
    lora.merge();
    assertRelativeError(await logits(model, ids), before, 1e-5);
    lora.unmerge();
    lora.remove();
    assertEquals(await weightOf().read(), original);
  });

  Deno.test(`init: "${init}": saved as plain LoRA, or to be taken apart again`, async () => {
    const folder = `${GOLDEN}llama`;
    const ids = await goldenInts(folder, "input_ids");
    const model = await loadModel(device, folder);
    const plain = await logits(model, ids);
    const lora = await addLora(model, {
      r: 4,
      init,
      useDora: init === "pissa",
      useRslora: init === "olora",
      rankPattern: { "v_proj": 3 },
      alphaPattern: { "up_proj": 5 },
    });
    assertRelativeError(await logits(model, ids), plain, 1e-5);
    for (const { b } of lora.branches.values()) {
      const values = await b.read();
      const noise = randomNumbers(b.size, 8, 0.05);
      device.write(b, Float32Array.from(values, (value, i) => value + noise[i]));
    }
    const wanted = await logits(model, ids);
    assert(wanted.some((number, i) => Math.abs(number - plain[i]) > 0.01));
    const root = await Deno.makeTempDir();
    await saveAdapter(lora, `${root}/as-begun`, { toPlainLora: false });
    await saveAdapter(lora, `${root}/plain`);
    lora.remove();
    assertEquals(await logits(model, ids), plain);
    for (const name of ["as-begun", "plain"]) {
      const config = JSON.parse(await Deno.readTextFile(`${root}/${name}/adapter_config.json`));
      const found = [config.r, config.init_lora_weights, config.rank_pattern];
      const isPlain = name === "plain";
      const pattern = { "v_proj": isPlain ? 6 : 3 };
      assertEquals(found, [isPlain ? 8 : 4, isPlain ? true : init, pattern]);
      const again = await loadAdapter(model, `${root}/${name}`);
      assertRelativeError(await logits(model, ids), wanted, 1e-5);
      if (isPlain) break;
      // What was loaded can be made plain too.
      await saveAdapter(again, `${root}/plain`);
      again.remove();
    }
    mergeAdapter(model);
    assertRelativeError(await logits(model, ids), wanted, 1e-5);
  });
}

Deno.test("decomposed starts leave no memory behind, and say what they cannot do", async () => {
  const model = tinyModel();
  const live = device.memory.live;
  (await addLora(model, { r: 2, init: "olora" })).remove();
  assertEquals(device.memory.live, live);
  const merged = await addLora(model, { r: 2, init: "pissa", targetModules: ["q_proj"] });
  merged.merge();
  mergeAdapter(model);
  assertEquals(device.memory.live, live);
  await assertRejects(
    () => addLora(model, { r: 33, init: "pissa", targetModules: [PATH] }),
    RangeError,
    `Cannot begin with "pissa" on "${PATH}": found r 33, wanted at most 32`,
  );
  assertEquals(device.memory.live, live);
  const quantized = await loadModel(device, `${GOLDEN}llama`, { quantize: "nf4" });
  await assertRejects(
    () => addLora(quantized, { init: "olora" }),
    TypeError,
    "found its weight in nf4, wanted plain numbers to take A and B out of; load the model without",
  );
  assertEquals([...quantized.parameters()], []);
});
