/**
 * Networks for digits with their batch normalizations apart and folded, in 32 bits and in few: what folding changes for quantization.
 *
 * @module
 */
import type { Device } from "../../core/device.ts";
import { Conv2d } from "../nn/conv2d.ts";
import { Linear } from "../nn/linear.ts";
import { BatchNormQat, type FoldableLayer, foldBatchNorm } from "../quant/batch_norm.ts";
import { roundWeights, type WeightRounding } from "../quant/round_weights.ts";
import { loadDigits } from "./data.ts";
import { accuracyOf, fit, logitsOf } from "./fit.ts";
import { foldingOf, type FoldingResult, mean, meanFolding, Noise } from "./folding.ts";
import {
  copyNetwork,
  type DigitKind,
  DigitNetwork,
  newNetwork,
  NormalizedLayer,
} from "./network.ts";

/** A way to store a network's weights. */
export interface DigitScheme {
  /** What tables call it: "int4 per channel, folded". */
  readonly name: string;
  /** How weights are rounded; null in 32 bits. */
  readonly rounding: WeightRounding | null;
  /** Whether normalizations are folded before weights are rounded. */
  readonly folded: boolean;
  /** Whether the network was trained on, with weights rounded if they are. */
  readonly trained: boolean;
}

/** What a scheme gives. */
export interface DigitResult extends DigitScheme {
  /** Which network. */
  readonly network: DigitKind;
  /** The share of test pictures that are named rightly, for each seed. */
  readonly accuracies: readonly number[];
  /** Their mean. */
  readonly accuracy: number;
  /**
   * The ratio of the power of logits in 32 bits to that of their change, in decibels, over all seeds; null where nothing changed,
   * and where weights were trained on.
   */
  readonly sqnr: number | null;
}

/** How `compareDigits` goes about it. */
export interface CompareDigitsOptions {
  /** Which networks; both by default. */
  readonly networks?: readonly DigitKind[];
  /** Networks are trained from each of these; 0, 1, 2 by default. */
  readonly seeds?: readonly number[];
  /** How often training sees all pictures: 10 by default. */
  readonly epochs?: number;
  /** How often training with rounded weights sees them: 4 by default. */
  readonly qatEpochs?: number;
  /** Told how many trainings of how many are done. */
  readonly onProgress?: (done: number, total: number) => void;
}

const LEARNING_RATE = 5e-3;
const QAT_LEARNING_RATE = 2e-3;

const ROUNDINGS = [8, 4, 3].flatMap((bits) =>
  (["tensor", "channel"] as const).map((per): WeightRounding => ({ bits, per }))
);

/** The schemes, in the order of the table. */
export const DIGIT_SCHEMES: readonly DigitScheme[] = [
  { name: "f32, apart", rounding: null, folded: false, trained: false },
  { name: "f32, folded", rounding: null, folded: true, trained: false },
  ...ROUNDINGS.flatMap((rounding) =>
    [false, true].map((folded): DigitScheme => ({
      name: `int${rounding.bits} per ${rounding.per}, ${folded ? "folded" : "apart"}`,
      rounding,
      folded,
      trained: false,
    }))
  ),
  // What further training gives without rounding: rows below are to be seen beside it.
  { name: "f32, folded, trained on", rounding: null, folded: true, trained: true },
  ...ROUNDINGS.filter(({ bits }) => bits < 8).map((rounding): DigitScheme => ({
    name: `int${rounding.bits} per ${rounding.per}, folded, QAT`,
    rounding,
    folded: true,
    trained: true,
  })),
];

/** Frees the tensors of a network that another one does not share. */
function disposeBut(network: DigitNetwork, other?: DigitNetwork): void {
  const shared = new Set(
    [...other?.modules() ?? []].flatMap(([, module]) => [...module.tensors()])
      .map(([, t]) => t.storage),
  );
  for (const [, module] of network.modules()) {
    for (const [, t] of module.tensors()) if (!shared.has(t.storage)) t.dispose();
  }
}

/** A layer with rounded weights, and the same bias. */
function roundedLayer(layer: FoldableLayer, rounding: WeightRounding): FoldableLayer {
  const { device } = layer.weight;
  const weight = device.scope(() => roundWeights(layer.weight, rounding).weight);
  return layer instanceof Linear
    ? new Linear(weight, layer.bias)
    : new Conv2d(weight, layer.bias, layer.moves);
}

/** What a network answers as a scheme stores it. */
async function askStored(
  network: DigitNetwork,
  { rounding, folded }: DigitScheme,
  ask: (network: DigitNetwork) => Promise<Float32Array>,
): Promise<Float32Array> {
  const units = (network.units as NormalizedLayer[]).map(async ({ layer, norm }) => {
    const own = folded ? await foldBatchNorm(layer, norm) : layer;
    const final = rounding ? roundedLayer(own, rounding) : own;
    if (own !== layer && own !== final) own.weight.dispose();
    return folded ? final : new NormalizedLayer(final, norm);
  });
  const stored = new DigitNetwork(network.kind, await Promise.all(units), network.head);
  const logits = await ask(stored);
  disposeBut(stored, network);
  return logits;
}

/** What a network answers after it was trained on as a scheme will store it, and stored so. */
async function askTrained(
  network: DigitNetwork,
  { rounding }: DigitScheme,
  ask: (network: DigitNetwork) => Promise<Float32Array>,
  train: (network: DigitNetwork) => Promise<void>,
): Promise<Float32Array> {
  const copy = copyNetwork(
    network,
    (layer, norm) =>
      rounding ? new BatchNormQat(layer, norm, rounding) : new NormalizedLayer(layer, norm),
  );
  await train(copy);
  const units = (copy.units as (BatchNormQat | NormalizedLayer)[]).map(async (unit) =>
    unit instanceof BatchNormQat
      ? (await unit.convert()).layer
      : await foldBatchNorm(unit.layer, unit.norm)
  );
  const stored = new DigitNetwork(copy.kind, await Promise.all(units), copy.head);
  const logits = await ask(stored);
  disposeBut(stored, copy);
  disposeBut(copy);
  return logits;
}

/** What `compareDigits` measured. */
export interface DigitComparison {
  /** Networks and schemes. */
  readonly results: readonly DigitResult[];
  /** Networks and layers. */
  readonly folding: readonly FoldingResult[];
}

/** Throws unless there is something to train, and for how long. */
function checkOptions(
  { networks = ["mlp"], seeds = [0], epochs = 1, qatEpochs = 1 }: CompareDigitsOptions,
): void {
  const wrong = networks.find((kind) => kind !== "mlp" && kind !== "cnn");
  if (networks.length === 0 || wrong !== undefined) {
    const found = wrong === undefined ? "no network" : `the network ${JSON.stringify(wrong)}`;
    throw new RangeError(`Cannot train ${found}: wanted "mlp", "cnn", or both`);
  }
  if (seeds.length === 0) throw new RangeError("Cannot train without a seed: wanted at least one");
  for (const [name, count] of [["epochs", epochs], ["qatEpochs", qatEpochs]] as const) {
    if (Number.isInteger(count) && count > 0) continue;
    throw new RangeError(`Cannot train for ${count} ${name}: wanted a whole number above 0`);
  }
}

/**
 * Trains networks with batch normalization on handwritten digits, and measures them with their normalizations apart and folded, in
 * 32 bits, with rounded weights, and trained on with rounded weights. The output layer stays in 32 bits, and so do activations.
 *
 * @param device where
 * @param options networks, seeds, lengths of training
 * @throws {RangeError} if there is no network or no seed, or an option makes no sense
 *
 * @example
 * ```ts
 * import { compareDigits, openDevice } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const { results } = await compareDigits(device, { networks: ["mlp"], seeds: [0] });
 * for (const { name, accuracy } of results) console.log(name, accuracy);
 * ```
 */
export async function compareDigits(
  device: Device,
  options: CompareDigitsOptions = {},
): Promise<DigitComparison> {
  checkOptions(options);
  const { networks = ["mlp", "cnn"], seeds = [0, 1, 2], epochs = 10, qatEpochs = 4 } = options;
  const data = await loadDigits();
  const trainings = 1 + DIGIT_SCHEMES.filter(({ trained }) => trained).length;
  const total = networks.length * seeds.length * trainings;
  const ask = (network: DigitNetwork) => logitsOf(device, network, data.test);
  const again = (seed: number) => (network: DigitNetwork) =>
    fit(device, network, data.train, {
      epochs: qatEpochs,
      learningRate: QAT_LEARNING_RATE,
      seed: seed + 1,
    });
  let done = 0;
  const tell = () => options.onProgress?.(++done, total);
  const results: DigitResult[] = [];
  const folding: FoldingResult[] = [];
  for (const kind of networks) {
    const accuracies = DIGIT_SCHEMES.map((): number[] => []);
    const noises = DIGIT_SCHEMES.map(() => new Noise());
    const layers: FoldingResult[][] = [];
    for (const seed of seeds) {
      const network = newNetwork(device, kind, seed);
      await fit(device, network, data.train, { epochs, learningRate: LEARNING_RATE, seed });
      tell();
      const plain = await ask(network);
      for (const [i, scheme] of DIGIT_SCHEMES.entries()) {
        const logits = scheme.trained
          ? await askTrained(network, scheme, ask, again(seed))
          : await askStored(network, scheme, ask);
        accuracies[i].push(accuracyOf(logits, data.test));
        noises[i].add(plain, logits);
        if (scheme.trained) tell();
      }
      layers.push(await foldingOf(network));
      network.dispose();
    }
    results.push(...DIGIT_SCHEMES.map((scheme, i): DigitResult => ({
      network: kind,
      ...scheme,
      accuracies: accuracies[i],
      accuracy: mean(accuracies[i]),
      sqnr: scheme.trained ? null : noises[i].decibels,
    })));
    folding.push(...layers[0].map((_, i) => meanFolding(layers.map((own) => own[i]))));
  }
  return { results, folding };
}
