/**
 * Training a network for digits, and asking it.
 *
 * @module
 */
import { noGrad } from "../../core/autograd.ts";
import { capture } from "../../core/capture.ts";
import type { Device } from "../../core/device.ts";
import { Random } from "../../core/random.ts";
import { tensor } from "../../core/tensor.ts";
import { crossEntropy } from "../../kernels/loss/cross_entropy.ts";
import { AdamW } from "../optim/adamw.ts";
import { FlatParameters } from "../optim/flat_parameters.ts";
import { scheduleFactor } from "../optim/schedule.ts";
import { DIGITS, type DigitSet, SIDE } from "./data.ts";
import type { DigitNetwork } from "./network.ts";

/** How a network is trained. */
export interface FitOptions {
  /** How often all pictures are seen. */
  readonly epochs: number;
  /** The learning rate of AdamW's first step; it falls to 0 along half a wave. */
  readonly learningRate: number;
  /** Of the order of pictures. */
  readonly seed: number;
}

/** Pictures of a step. */
const BATCH = 48;

const PIXELS = SIDE ** 2;

/** A stream of the seed. */
const ORDER = 0x6f72646572;

/** Trains all weights of a network, in place. Pictures that fill no batch wait for the next epoch's order. */
export async function fit(
  device: Device,
  network: DigitNetwork,
  { pixels, labels }: DigitSet,
  { epochs, learningRate, seed }: FitOptions,
): Promise<void> {
  const leaves = [...network.parameters()];
  for (const [, t] of leaves) t.requiresGrad = true;
  const parameters = new FlatParameters(leaves);
  const optimizer = new AdamW(parameters, { weightDecay: 1e-2 });
  using step = capture(device, (x, targets) => {
    parameters.addGradients(crossEntropy(network.forward(x, true), targets));
    optimizer.step();
  });
  const random = new Random(seed, ORDER);
  const batches = Math.floor(labels.length / BATCH);
  const steps = epochs * batches;
  for (let done = 0; done < steps;) {
    const order = random.permutation(labels.length);
    for (let batch = 0; batch < batches; batch++) {
      const own = order.subarray(batch * BATCH, (batch + 1) * BATCH);
      const data = new Float32Array(BATCH * PIXELS);
      own.forEach((i, at) => data.set(pixels.subarray(i * PIXELS, (i + 1) * PIXELS), at * PIXELS));
      const rate = learningRate * scheduleFactor(done, { kind: "cosine", steps, warmup: 0 });
      optimizer.prepare(++done, rate);
      step(
        { data, shape: [BATCH, SIDE, SIDE, 1] },
        { data: Int32Array.from(own, (i) => labels[i]), shape: [BATCH] },
      );
    }
    device.flush();
  }
  await device.finish();
  for (const [, t] of leaves) t.requiresGrad = false;
  optimizer.dispose();
  parameters.dispose();
}

/** A network's logits for pictures, [count, 10]. */
export async function logitsOf(
  device: Device,
  network: DigitNetwork,
  { pixels, labels }: DigitSet,
): Promise<Float32Array> {
  const logits = device.scope(() =>
    noGrad(() => network.forward(tensor(device, pixels, [labels.length, SIDE, SIDE, 1])))
  );
  const numbers = await logits.read() as Float32Array;
  logits.dispose();
  return numbers;
}

/** The share of pictures whose largest logit is that of their digit. */
export function accuracyOf(logits: Float32Array, { labels }: DigitSet): number {
  let right = 0;
  for (const [i, label] of labels.entries()) {
    const row = logits.subarray(i * DIGITS, (i + 1) * DIGITS);
    if (row.indexOf(Math.max(...row)) === label) right++;
  }
  return right / labels.length;
}
