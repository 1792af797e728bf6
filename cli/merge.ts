/** `nibble merge`: a model and its adapter as one model folder. */
import { z } from "zod";
import { noGrad } from "../core/autograd.ts";
import { openDevice } from "../core/device.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import { mergeAdapterFourBit, type MergeError } from "../train/adapters/merge_four_bit.ts";
import { mergeAdapter } from "../train/adapters/lora.ts";
import { lastName } from "../train/adapters/targets.ts";
import type { LanguageModel } from "../train/models/language_model.ts";
import { saveModel } from "../train/models/save.ts";
import { type Command, defineCommand } from "./command.ts";
import { ADAPTER_OPTION, FOUR_BIT_TYPE, MODEL_OPTIONS, openModel } from "./model_options.ts";
import { jsonSwitch } from "./options.ts";
import { checkOut } from "./out_folder.ts";
import { bytes, count, percent, printJson, printLine, table } from "./print.ts";

/** What logits are compared on. */
const TEXT =
  "The library opens at nine. Ask at the desk for a card, choose a book, and bring it back " +
  "within three weeks; if you need more time, call us before it is due.";

/** So many tokens at most: this is to warn, not to evaluate. */
const MOST_TOKENS = 64;

/** What 4 bits did to the merged model. */
interface Cost {
  /** By the last part of the layers' names, and all together at the end. */
  readonly layers: readonly MergeCost[];
  /** ‖merged − before‖ / ‖before‖ of the logits on a short text: what the adapter does. */
  readonly logitsUpdate: number;
  /** ‖quantized − merged‖ / ‖merged‖: what the rounding does. */
  readonly logitsError: number;
}

/** The same of one kind of layer. */
interface MergeCost {
  readonly type: string;
  readonly layers: number;
  readonly weights: number;
  readonly update: number;
  readonly error: number;
  readonly kept: number | null;
}

function costOf(type: string, found: readonly MergeError[]): MergeCost {
  const weights = found.reduce((sum, own) => sum + own.weights, 0);
  const mean = (key: "update" | "error") =>
    Math.sqrt(found.reduce((sum, own) => sum + own.weights * own[key] ** 2, 0) / weights);
  // Weighted by the squares of the moves, as the share over all weights is.
  const moved = found.filter(({ kept }) => kept !== null);
  const squares = (own: MergeError) => own.weights * own.update ** 2;
  const all = moved.reduce((sum, own) => sum + squares(own), 0);
  const kept = all === 0
    ? null
    : moved.reduce((sum, own) => sum + squares(own) * own.kept!, 0) / all;
  const [update, error] = [mean("update"), mean("error")];
  return { type, layers: found.length, weights, update, error, kept };
}

function byType(found: readonly MergeError[]): MergeCost[] {
  const types = Map.groupBy(found, ({ path }) => lastName(path));
  return [...[...types].map(([type, own]) => costOf(type, own)), costOf("all", found)];
}

/** The short text as ids; any ids where there is no tokenizer. */
function someIds(model: LanguageModel): Tensor {
  const { device, tokenizer, config } = model;
  const length = Math.min(MOST_TOKENS, config.contextLength);
  const ids = tokenizer?.encode(TEXT).slice(0, length) ??
    Int32Array.from({ length }, (_, i) => (17 * i + 5) % config.vocabSize);
  return device.keep(tensor(device, ids, [1, ids.length]));
}

async function logitsOf(model: LanguageModel, ids: Tensor): Promise<Float32Array> {
  using logits = model.device.scope(() => noGrad(() => model.forward(ids)));
  return await logits.read() as Float32Array;
}

function distance(a: Float32Array, b: Float32Array): number {
  let [apart, own] = [0, 0];
  for (let i = 0; i < a.length; i++) {
    apart += (a[i] - b[i]) ** 2;
    own += b[i] ** 2;
  }
  return apart === 0 ? 0 : Math.sqrt(apart / own);
}

/** Merges into 4 bits, and measures what that does. */
async function mergeAndMeasure(
  model: LanguageModel,
  options: Parameters<typeof mergeAdapterFourBit>[1],
): Promise<Cost> {
  using ids = someIds(model);
  const merged = await logitsOf(model, ids);
  const branches = [...model.linearLayers()].map(([, layer]) => [layer, layer.branch] as const);
  for (const [layer] of branches) layer.branch = null;
  const before = await logitsOf(model, ids);
  for (const [layer, branch] of branches) layer.branch = branch;
  const found = await mergeAdapterFourBit(model, options);
  const after = await logitsOf(model, ids);
  return {
    layers: byType(found),
    logitsUpdate: distance(merged, before),
    logitsError: distance(after, merged),
  };
}

function printCost({ layers, logitsUpdate, logitsError }: Cost): void {
  printLine(table(
    ["layer", "layers", "weights", "moved by the adapter", "by 4 bits", "of the adapter left"],
    layers.map(({ type, layers, weights, update, error, kept }) => [
      type,
      layers,
      count(weights),
      percent(update),
      percent(error),
      kept === null ? "" : percent(kept),
    ]),
    { right: [1, 2, 3, 4, 5] },
  ));
  const all = layers.at(-1)!;
  printLine();
  printLine(
    `Warning: the adapter moved the weights by ${percent(all.update)}, and 4 bits by ${
      percent(all.error)
    }${
      all.kept === null ? "" : `, which left ${percent(all.kept)} of the adapter`
    }. On a short text the adapter moved the logits by ${percent(logitsUpdate)}, and 4 bits by ${
      percent(logitsError)
    }. Where that is too much, merge with --dtype f16, or keep the adapter beside the 4-bit model.`,
  );
  printLine();
}

const { model, quantize, doubleQuant, blockSize } = MODEL_OPTIONS;

const command: Command = defineCommand({
  name: "merge",
  summary: "Merge an adapter into its model, in plain weights or in 4 bits, as a model folder",
  examples: [
    [
      "nibble merge --model ./SmolLM2-135M --adapter ./my-adapter --out ./merged --dtype bf16",
      "a model that needs no adapter, for any program that reads Hugging Face folders",
    ],
    [
      "nibble merge --model ./SmolLM2-135M --base-quantize nf4 --adapter ./qlora --out ./merged",
      "an adapter that was trained on 4 bits belongs onto these, decoded",
    ],
    [
      "nibble merge --model ./SmolLM2-135M --adapter ./my-adapter --out ./merged-nf4 --quantize nf4",
      "in 4 bits again, and what of the adapter is lost by that",
    ],
  ],
  options: z.strictObject({
    model,
    adapter: ADAPTER_OPTION.adapter.unwrap().meta({
      description: "the LoRA adapter: a folder that nibble or PEFT wrote, or org/name",
      placeholder: "FOLDER",
    }),
    out: z.string().min(1).meta({
      description: "where to: a new or empty folder, or a model folder to replace",
      placeholder: "FOLDER",
    }),
    dtype: z.enum(["f32", "f16", "bf16"]).default("f32")
      .meta({ description: "of the plain weights" }),
    quantize: FOUR_BIT_TYPE.optional().meta({
      description: "write the merged linear layers in 4 bits of this type",
    }),
    baseQuantize: quantize.meta({
      description: "quantize the model first, as it was when the adapter was trained on it",
    }),
    doubleQuant: doubleQuant.meta({
      description: "quantize the scales too (with --quantize or --base-quantize)",
    }),
    blockSize: blockSize.meta({
      description: "weights that share a scale (with --quantize or --base-quantize); 64",
    }),
    json: jsonSwitch(),
  }),
  check({ quantize, baseQuantize }, check) {
    if (quantize !== undefined || baseQuantize !== undefined) return;
    if (check.firstSaid(["doubleQuant", "blockSize"])) {
      check.fault("--double-quant and --block-size say how --quantize or --base-quantize does it");
    }
  },
  async run({ model: name, adapter, out, dtype, quantize, baseQuantize, json, ...scales }) {
    await checkOut(out, "model", name);
    using device = await openDevice();
    const model = await openModel(device, {
      model: name,
      adapter,
      ...baseQuantize ? { quantize: baseQuantize, ...scales } : { doubleQuant: false },
    });
    const cost = quantize ? await mergeAndMeasure(model, { type: quantize, ...scales }) : null;
    if (!cost) mergeAdapter(model);
    // What the adapter was not on may still be in the base's 4 bits: a plain model has none.
    await saveModel(model, out, { dtype, dequantize: !quantize });
    const fileBytes = (await Deno.stat(`${out}/model.safetensors`)).size;
    const written = quantize ?? dtype;
    if (json) return printJson({ model: name, adapter, out, written, dtype, fileBytes, cost });
    if (cost) printCost(cost);
    printLine(
      `Written to ${out}: ${bytes(fileBytes)}, ${
        quantize ? `${quantize}, the rest in ${dtype}` : `all in ${dtype}`
      }`,
    );
  },
});
export default command;
