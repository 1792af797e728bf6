import {
  readBytes,
  readInputs,
  storeBytes,
  storeInputs,
} from "../../../train/files/int_quantized.ts";
import {
  openCheckpoint,
  type TensorData,
  type TensorSource,
  writeSafetensors,
} from "../../../train/files/safetensors.ts";
import { assertEquals, assertRejects, assertThrows } from "../../assert.ts";
import { randomIntegers, randomNumbers } from "../../device.ts";

async function stored(
  tensors: ReadonlyMap<string, TensorData>,
  body: (source: TensorSource) => Promise<void>,
): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await writeSafetensors(`${folder}/model.safetensors`, new Map(tensors));
    using source = await openCheckpoint(folder);
    await body(source);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("bytes of whole numbers lie as compressed-tensors has them", () => {
  const codes = Uint8Array.of(1, 128, 255, 130, 126, 129);
  const scales = Float32Array.of(0.5, 128, 0.25, 100);
  const parts = { type: "int8", shape: [2, 3], groupSize: 3, codes, scales } as const;
  const tensors = storeBytes("a.weight", parts);
  assertEquals(Object.fromEntries(tensors), {
    "a.weight": { dtype: "I8", shape: [2, 3], data: Int8Array.of(-127, 0, 127, 2, -2, 1) },
    "a.weight_scale": { dtype: "F32", shape: [2, 1], data: Float32Array.of(0.5, 0.25) },
    "a.weight_zero_point": { dtype: "I8", shape: [2, 1], data: Int8Array.of(0, -28) },
  });
  const half = { ...parts, scales: Float32Array.of(0.5, 128, 0.25, 7.5) };
  assertThrows(() => storeBytes("a.weight", half), TypeError, "HQQ's zeros lie between");
});

Deno.test("weights in bytes are read as they were stored", async () => {
  for (const type of ["int8", "int4"] as const) {
    for (const [rows, columns, groupSize] of [[5, 33, 8], [8, 64, 64]] as const) {
      const levels = type === "int8" ? 256 : 16;
      const groups = Math.ceil(columns / groupSize);
      const steps = randomNumbers(rows * groups, 3);
      const zeros = randomIntegers(rows * groups, levels, 2);
      const scales = Float32Array.from(
        { length: 2 * rows * groups },
        (_, i) => i % 2 === 0 ? steps[i >> 1] : zeros[i >> 1],
      );
      const codes = Uint8Array.from(randomIntegers(rows * columns, levels, 1));
      const own = { type, shape: [rows, columns], groupSize, codes, scales } as const;
      await stored(storeBytes("w", own), async (source) => {
        assertEquals(await readBytes(source, "w", [groupSize], type), own);
        if (type === "int4") return;
        await assertRejects(
          () => readBytes(source, "w", [groupSize], "int4"),
          RangeError,
          "config.json says 4 bits",
        );
      });
    }
  }
});

Deno.test("fixed ranges of inputs are read as they were stored", async () => {
  const cases = [
    [{ bits: 8, kind: "symmetric" }, { scale: 0.5, zero: 0 }, undefined],
    [{ bits: 8, kind: "asymmetric", levels: "signed" }, { scale: 0.25, zero: -128 }, -128],
    [{ bits: 8, kind: "asymmetric" }, { scale: 0.125, zero: 255 }, 127],
    [{ bits: 4, kind: "asymmetric" }, { scale: 3, zero: 5 }, -3],
    [{ bits: 4, kind: "symmetric", levels: "unsigned" }, { scale: 3, zero: 8 }, undefined],
    [{ bits: 8, kind: "symmetric-full" }, { scale: 0, zero: 0 }, undefined],
  ] as const;
  for (const [scheme, fixed, zero] of cases) {
    const tensors = storeInputs("a.weight", scheme, fixed);
    const found = tensors.get("a.input_zero_point")?.data as Int8Array | undefined;
    assertEquals(found?.[0], zero);
    await stored(tensors, async (source) => {
      assertEquals(await readInputs(source, "a.weight", scheme), fixed);
    });
  }
});

Deno.test("weights and ranges that do not fit each other are refused", async () => {
  const codes = new Uint8Array(8 * 64);
  const scales = new Float32Array(2 * 8 * 4).fill(1);
  const whole = new Map([
    ...storeBytes("a.weight", { type: "int8", shape: [8, 64], groupSize: 16, codes, scales }),
    ...storeInputs("a.weight", { bits: 8, kind: "asymmetric" }, { scale: 1, zero: 3 }),
  ]);
  const f32 = (...values: number[]): TensorData => ({
    dtype: "F32",
    shape: [values.length],
    data: Float32Array.from(values),
  });
  const cases: [string, TensorData | null, string][] = [
    ["a.weight_scale", { dtype: "F32", shape: [8, 3], data: new Float32Array(24) }, "3 scales"],
    ["a.weight_zero_point", f32(1), "its zero points are F32 [1], wanted I8 [8,4]"],
    ["a.input_scale", null, '"a.input_scale" is missing, wanted one number'],
    ["a.input_scale", f32(1, 2), '"a.input_scale" is F32 [2], wanted one number'],
    ["a.input_scale", f32(NaN), '"a.input_scale" is NaN'],
    ["a.input_scale", f32(-1), '"a.input_scale" is -1'],
    ["a.input_zero_point", f32(1), "wanted I8 [1]"],
    [
      "a.input_zero_point",
      { dtype: "I8", shape: [1], data: Int8Array.of(9) },
      '"a.input_zero_point" is 9, which is none of the whole numbers',
    ],
  ];
  for (const [name, data, message] of cases) {
    const tensors = new Map(whole);
    if (data) tensors.set(name, data);
    else tensors.delete(name);
    await stored(tensors, async (source) => {
      await assertRejects(
        async () => {
          await readBytes(source, "a.weight", [16]);
          const bits = message.includes("none of") ? 4 : 8;
          await readInputs(source, "a.weight", { bits, kind: "asymmetric" });
        },
        RangeError,
        message,
      );
    });
  }
});
