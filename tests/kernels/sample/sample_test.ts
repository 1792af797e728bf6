import { tensor } from "../../../core/tensor.ts";
import { sample } from "../../../kernels/sample/sample.ts";
import { sampleRef } from "../../../kernels/sample/sample_ref.ts";
import { assert, assertEquals, assertThrows } from "../../assert.ts";
import { onBoth } from "../../as_gpu.ts";
import { device, randomNumbers } from "../../device.ts";

Deno.test("sample() takes the likeliest token, the first of equals", async () => {
  await onBoth(async () => {
    const logits = tensor(device, new Float32Array([1, 9, 9, 0, -5, -2, -2, -7]), [2, 4]);
    assertEquals(Array.from(await sample(logits).read()), [1, 1]);
  });
});

Deno.test("sample() draws as the reference does, with topK and topP", async () => {
  await onBoth(async () => {
    const [rows, classes] = [40, 300];
    const data = randomNumbers(rows * classes, 1, 2);
    const logits = tensor(device, data, [rows, classes]);
    for (
      const options of [
        { temperature: 1, topK: 0, topP: 1 },
        { temperature: 0.7, topK: 5, topP: 1 },
        { temperature: 1.3, topK: 0, topP: 0.6 },
        { temperature: 0.9, topK: 50, topP: 0.8 },
        { temperature: 1, topK: 1, topP: 0.01 },
      ]
    ) {
      const state = tensor(device, new Uint32Array([11, 4]));
      const drawn = await sample(logits, options, state).read();
      const expected = Array.from(
        { length: rows },
        (_, row) =>
          sampleRef(data.subarray(row * classes, (row + 1) * classes), options, 11, 4, row),
      );
      // Two scores may differ by less than float32 shows; one row of 40 is more than that explains.
      const differing = expected.filter((token, row) => token !== drawn[row]).length;
      assert(differing === 0, `${differing} rows differ with ${JSON.stringify(options)}`);
    }
  });
});

Deno.test("sample() draws as the reference does from large vocabularies, of few and of many likely tokens", async () => {
  await onBoth(async () => {
    for (const [rows, classes, deviation] of [[3, 9001, 2], [2, 40_000, 0.01], [2, 4096, 12]]) {
      const data = randomNumbers(rows * classes, 2, deviation);
      const logits = tensor(device, data, [rows, classes]);
      for (
        const options of [
          { temperature: 0, topK: 0, topP: 1 },
          { temperature: 1, topK: 0, topP: 1 },
          { temperature: 0.8, topK: 2500, topP: 1 },
          { temperature: 1.1, topK: 0, topP: 0.9 },
          { temperature: 0.9, topK: 50, topP: 0.8 },
        ]
      ) {
        const state = tensor(device, new Uint32Array([3, 9]));
        const expected = Array.from(
          { length: rows },
          (_, row) =>
            sampleRef(data.subarray(row * classes, (row + 1) * classes), options, 3, 9, row),
        );
        const what = `${classes} classes, ${JSON.stringify(options)}`;
        assertEquals(Array.from(await sample(logits, options, state).read()), expected, what);
      }
    }
  });
});

Deno.test("sample() draws a row's tokens from its stream, wherever it stands", async () => {
  await onBoth(async () => {
    const row = randomNumbers(300, 3);
    const logits = tensor(device, Float32Array.from({ length: 900 }, (_, i) => row[i % 300]), [
      3,
      300,
    ]);
    const state = tensor(device, new Uint32Array([11, 4, 7, 0, 7]));
    const options = { temperature: 1, topK: 0, topP: 1 };
    const drawn = await sample(logits, options, state).read();
    assertEquals(
      Array.from(drawn),
      [7, 0, 7].map((stream) => sampleRef(row, options, 11, 4, stream)),
    );
    const short = tensor(device, new Uint32Array(4));
    assertThrows(() => sample(logits, options, short), RangeError, "wanted [5]");
  });
});

Deno.test("sample() draws with the model's frequencies", async () => {
  await onBoth(async () => {
    const probabilities = [0.5, 0.3, 0.15, 0.05];
    const rows = 4000;
    const row = probabilities.map(Math.log);
    const data = Float32Array.from({ length: rows * 4 }, (_, i) => row[i % 4]);
    const state = tensor(device, new Uint32Array([5, 0]));
    const drawn = await sample(tensor(device, data, [rows, 4]), { temperature: 1 }, state).read();
    probabilities.forEach((p, token) => {
      const count = drawn.filter((own: number) => own === token).length;
      // five standard deviations of a binomial count
      assert(Math.abs(count - rows * p) < 5 * Math.sqrt(rows * p * (1 - p)), `${token}: ${count}`);
    });
  });
});

Deno.test("sample() refuses options that make no sense", () => {
  const logits = tensor(device, new Float32Array(4), [1, 4]);
  assertThrows(() => sample(logits, { temperature: -1 }), RangeError, "temperature -1");
  assertThrows(() => sample(logits, { topK: 1.5 }), RangeError, "top 1.5");
  assertThrows(() => sample(logits, { topP: 0 }), RangeError, "topP 0");
  assertThrows(() => sample(logits, { temperature: 1 }), TypeError, "without a state");
});
