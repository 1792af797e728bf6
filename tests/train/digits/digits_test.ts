import { openDevice } from "../../../core/device.ts";
import {
  compareDigits,
  type CompareDigitsOptions,
  DIGIT_SCHEMES,
  type DigitResult,
} from "../../../train/digits/compare.ts";
import { loadDigits } from "../../../train/digits/data.ts";
import { accuracyOf, fit, logitsOf } from "../../../train/digits/fit.ts";
import {
  copyNetwork,
  DigitNetwork,
  newNetwork,
  type NormalizedLayer,
} from "../../../train/digits/network.ts";
import { foldBatchNorm } from "../../../train/quant/batch_norm.ts";
import {
  assert,
  assertEquals,
  assertRejects,
  assertRelativeError,
  assertThrows,
} from "../../assert.ts";
import { device } from "../../device.ts";

const data = await loadDigits();

Deno.test("loadDigits() has all of UCI's test images", () => {
  const { train, test } = data;
  assertEquals([train.labels.length, test.labels.length], [1200, 597]);
  assertEquals([train.pixels.length, test.pixels.length], [1200 * 64, 597 * 64]);
  const counts = new Array<number>(10).fill(0);
  for (const label of [...train.labels, ...test.labels]) counts[label]++;
  // As UCI's page lists them.
  assertEquals(counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
  const pixels = [...train.pixels, ...test.pixels];
  assert(pixels.every((x) => x >= 0 && x <= 1 && Number.isInteger(16 * x)));
  assert(pixels.includes(1) && pixels.includes(0));
});

Deno.test("a CNN learns digits, the same twice, and gives the same logits when it is folded", async () => {
  const train = async () => {
    const network = newNetwork(device, "cnn", 5);
    await fit(device, network, data.train, { epochs: 1, learningRate: 5e-3, seed: 5 });
    return network;
  };
  const network = await train();
  const logits = await logitsOf(device, network, data.test);
  assert(accuracyOf(logits, data.test) > 0.75, `accuracy ${accuracyOf(logits, data.test)}`);
  assertEquals(await logitsOf(device, await train(), data.test), logits);

  const units = await Promise.all(
    (network.units as NormalizedLayer[]).map(({ layer, norm }) => foldBatchNorm(layer, norm)),
  );
  const folded = new DigitNetwork("cnn", units, network.head);
  assertRelativeError(await logitsOf(device, folded, data.test), logits, 2e-6);
  assertThrows(() => copyNetwork(folded), TypeError, "copy it before");
  // A copy is trained without the original.
  const copy = copyNetwork(network);
  await fit(device, copy, data.train, { epochs: 1, learningRate: 1e-3, seed: 6 });
  assertEquals(await logitsOf(device, network, data.test), logits);
});

Deno.test("compareDigits() says what it cannot train, before it begins", async () => {
  const cases: [CompareDigitsOptions, string][] = [
    [{ networks: [] }, 'Cannot train no network: wanted "mlp", "cnn"'],
    [{ networks: ["rnn" as "cnn"] }, 'Cannot train the network "rnn"'],
    [{ seeds: [] }, "without a seed: wanted at least one"],
    [{ epochs: 0 }, "for 0 epochs: wanted a whole number above 0"],
    [{ qatEpochs: 1.5 }, "for 1.5 qatEpochs"],
  ];
  for (const [options, message] of cases) {
    await assertRejects(() => compareDigits(device, options), RangeError, message);
  }
});

Deno.test("compareDigits() shows what folding changes, and what it does not", async () => {
  using own = await openDevice();
  let told = 0;
  const options = { networks: ["mlp"], seeds: [0, 1], epochs: 5, qatEpochs: 2 } as const;
  const { results, folding } = await compareDigits(own, {
    ...options,
    onProgress: (done, total) => {
      assertEquals([done, total], [++told, 12]);
    },
  });
  assertEquals(told, 12);
  assertEquals(results.map(({ name }) => name), DIGIT_SCHEMES.map(({ name }) => name));
  const of = (name: string): DigitResult => results.find((result) => result.name === name)!;
  const [apart, folded] = [of("f32, apart"), of("f32, folded")];
  assert(apart.accuracy > 0.88, `accuracy ${apart.accuracy}`);
  assertEquals([apart.sqnr, folded.accuracies], [null, apart.accuracies]);
  assert(folded.sqnr! > 110, `SQNR ${folded.sqnr}`);
  for (const bits of [8, 4, 3]) {
    // A scale for each channel follows the channel's factor: rounding is the same.
    const [one, other] = ["apart", "folded"].map((how) => of(`int${bits} per channel, ${how}`));
    assert(Math.abs(one.sqnr! - other.sqnr!) < 0.2, `${bits} bits: ${one.sqnr}, ${other.sqnr}`);
    assert(one.sqnr! > of(`int${bits} per tensor, folded`).sqnr!, `${bits} bits`);
  }
  const gained = of("int3 per tensor, folded, QAT").accuracy -
    of("int3 per tensor, folded").accuracy;
  assert(gained > 0, `QAT gained ${gained}`);
  assertEquals(folding.map(({ layer }) => layer), [0, 1]);
  for (const { sqnr: { perTensor, perChannel }, spread } of folding) {
    assert(Math.abs(perChannel.apart - perChannel.folded) < 0.05);
    assert(perTensor.folded < perChannel.folded && spread.apart > 1 && spread.folded > 1);
  }
  // Constants stay, and the last results in the pool's hands.
  assert(own.memory.live < 100_000, `${own.memory.live} bytes are left`);
});
