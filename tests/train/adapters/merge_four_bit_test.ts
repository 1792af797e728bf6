import { FourBitTensor } from "../../../kernels/quant/four_bit.ts";
import { addLora } from "../../../train/adapters/lora.ts";
import { mergeAdapterFourBit } from "../../../train/adapters/merge_four_bit.ts";
import { loadModel } from "../../../train/models/load.ts";
import { QuantizedLinear } from "../../../train/nn/linear.ts";
import { assert, assertEquals, assertRejects } from "../../assert.ts";
import { device, randomNumbers } from "../../device.ts";
import { GOLDEN, tinyModel } from "./models.ts";

/** ‖a − b‖ / ‖b‖. */
function distance(a: ArrayLike<number>, b: ArrayLike<number>): number {
  const apart = Array.from(a, (value, i) => value - b[i]);
  return Math.hypot(...apart) / Math.hypot(...Array.from(b));
}

Deno.test("mergeAdapterFourBit() quantizes what is merged, and tells both changes", async () => {
  const folder = `${GOLDEN}llama`;
  const model = await loadModel(device, folder);
  const plain = await loadModel(device, folder);
  const live = device.memory.live;
  const options = { r: 4, targetModules: ["q_proj"], useDora: true };
  const loras = [model, plain].map((own) => {
    const lora = addLora(own, options);
    for (const { b } of lora.branches.values()) device.write(b, randomNumbers(b.size, 8, 0.02));
    return lora;
  });
  const weights = async () =>
    new Map(
      await Promise.all(
        [...plain.linearLayers()].map(async ([path, layer]) =>
          [path, await layer.dense().read()] as const
        ),
      ),
    );
  const before = await weights();
  loras[1].merge();
  const merged = await weights();
  const errors = await mergeAdapterFourBit(model, { type: "fp4", doubleQuant: true });
  assertEquals(errors.map(({ path }) => path), [...merged.keys()]);
  const layers = new Map(model.linearLayers());
  for (const { path, weights, update, error, kept } of errors) {
    const layer = layers.get(path)!;
    assert(layer instanceof QuantizedLinear && layer.weight instanceof FourBitTensor);
    assertEquals([layer.weight.scheme, weights], ["fp4-dq", layer.shape[0] * layer.shape[1]]);
    const wanted = distance(merged.get(path)!, before.get(path)!);
    assert(Math.abs(update - wanted) < 1e-4 * wanted + 1e-9, `${path}: ${update}, ${wanted}`);
    assertEquals(update > 0, path.endsWith("q_proj"));
    const moved = distance(await layer.dense().read(), merged.get(path)!);
    assert(Math.abs(error / moved - 1) < 1e-4, `${path}: ${error}, ${moved}`);
    assertEquals(kept === null, update === 0);
    // Rounding of plain weights goes any way, and leaves most of the move.
    assert(kept === null || Math.abs(kept - 1) < 0.5, `${path}: ${kept}`);
  }
  assertEquals([...model.parameters()], []);
  assert(device.memory.live < live + 4 * 1e6);
});

Deno.test("mergeAdapterFourBit() leaves layers that are in these 4 bits, and takes others along", async () => {
  const folder = `${GOLDEN}llama`;
  for (const type of ["nf4", "fp4"] as const) {
    const model = await loadModel(device, folder, { quantize: "nf4" });
    const layers = new Map(model.linearLayers());
    addLora(model, { r: 2, targetModules: ["v_proj"] }).merge();
    const errors = await mergeAdapterFourBit(model, { type });
    assertEquals(errors.length, type === "nf4" ? 2 : layers.size);
    for (const [path, layer] of model.linearLayers()) {
      assertEquals((layer as QuantizedLinear).weight.scheme, type);
      const isKept = type === "nf4" && !path.endsWith("v_proj");
      assertEquals(layer === layers.get(path), isKept);
    }
    // B is zero: decoded NF4 comes back as it was.
    if (type === "nf4") assert(errors.every(({ error, update }) => error < 1e-6 && update === 0));
  }
});

Deno.test("mergeAdapterFourBit() tells that 4 bits take a small move on 4-bit weights back", async () => {
  const model = await loadModel(device, `${GOLDEN}llama`, { quantize: "nf4" });
  const lora = addLora(model, { r: 4, targetModules: ["q_proj"] });
  for (const { b } of lora.branches.values()) device.write(b, randomNumbers(b.size, 8, 1e-3));
  for (const { update, error, kept } of await mergeAdapterFourBit(model)) {
    assert(update > 0 && Math.abs(error / update - 1) < 0.2, `${update}, ${error}`);
    assert(kept !== null && Math.abs(kept) < 0.2, `${kept}`);
  }
});

Deno.test("mergeAdapterFourBit() frees all but the model, and wants an adapter", async () => {
  const model = tinyModel();
  await assertRejects(() => mergeAdapterFourBit(model), TypeError, "found none on the model");
  const { live } = device.memory;
  const bytes = model.weightBytes;
  addLora(model, { r: 2 });
  await mergeAdapterFourBit(model);
  await device.finish();
  assertEquals(live - device.memory.live, bytes - model.weightBytes);
});
