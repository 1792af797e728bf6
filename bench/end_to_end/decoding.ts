/**
 * Reading a prompt, and going on with it token by token, as `generateTokens` does.
 *
 * @module
 */
import { noGrad } from "../../core/autograd.ts";
import type { Device } from "../../core/device.ts";
import { Random } from "../../core/random.ts";
import { type Tensor, tensor } from "../../core/tensor.ts";
import { generateTokens } from "../../train/eval/generate.ts";
import type { Json } from "../../train/files/tokenizer.ts";
import type { LanguageModel } from "../../train/models/language_model.ts";
import { loadModel } from "../../train/models/load.ts";
import { quantizeActivations } from "../../train/quant/quantize_activations.ts";
import { profile } from "../profile.ts";
import { writeRandomGguf } from "./random_gguf.ts";
import { drawModel, type DrawnType } from "./random_model.ts";
import { sampleRuns } from "./sampling.ts";
import type { ModelShape } from "./shapes.ts";
import {
  ColdRun,
  type Measured,
  type MeasureOptions,
  memoryOf,
  type Work,
  type WorkSize,
} from "./work.ts";

/** Tokens of a prompt, and tokens that follow. */
interface Lengths {
  readonly prompt: number;
  readonly answer: number;
}

/** A profile is of an answer of so many tokens: those of a whole one are all alike. */
const PROFILED_TOKENS = 4;

function randomIds(count: number, vocabSize: number): Int32Array<ArrayBuffer> {
  const random = new Random(4);
  return Int32Array.from({ length: count }, () => random.integer(vocabSize));
}

/** Throws unless the logits of some tokens are numbers: a kernel may be fast because it is wrong. */
async function checkLogits(model: LanguageModel): Promise<void> {
  const { device } = model;
  const ids = randomIds(4, model.config.vocabSize);
  const logits = device.scope(() => noGrad(() => model.forward(tensor(device, ids, [1, 4]))));
  const values = await logits.read();
  logits.dispose();
  const wrong = values.findIndex((value) => !Number.isFinite(value));
  if (wrong < 0) return;
  throw new Error(`Cannot time decoding: logit ${wrong} is ${values[wrong]}, wanted a number`);
}

/**
 * What the linear layers are in. With f16 other plain matrices are in 16 bits too, as `loadModel` has those of such a checkpoint.
 * With w8a8 and w4a8 the inputs are in 8 bits, each token with a scale of its own, and products are sums of whole numbers.
 * With q4_0 the model comes from a GGUF file, which is written first.
 */
export type LayerType = "f32" | "f16" | "w8a8" | "w4a8" | "q4_0" | DrawnType;

/** The weights of each. */
const DRAWN: Readonly<Record<LayerType, DrawnType | undefined>> = {
  f32: undefined,
  f16: undefined,
  "q4_0": undefined,
  w8a8: "int8",
  w4a8: "int4",
  int8: "int8",
  int4: "int4",
  nf4: "nf4",
};

/** A model out of a GGUF file. */
async function throughGguf(device: Device, json: Json): Promise<LanguageModel> {
  const folder = await Deno.makeTempDir();
  try {
    const path = `${folder}/model.gguf`;
    await writeRandomGguf(device, json, path);
    device.trim();
    return await loadModel(device, path);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function withModel(
  device: Device,
  shape: ModelShape,
  layers: LayerType,
  size: WorkSize,
  body: (model: LanguageModel) => Promise<Measured>,
): Promise<Measured> {
  const json = { ...size === "tiny" ? shape.tiny : shape.full };
  const quantize = DRAWN[layers];
  if (!quantize) json.torch_dtype = layers === "f16" ? "float16" : "float32";
  const model = layers === "q4_0"
    ? await throughGguf(device, json)
    : await drawModel(device, json, { quantize });
  try {
    if (layers === "w8a8" || layers === "w4a8") {
      (await quantizeActivations(model, { weights: "keep" })).commit();
      await device.finish();
      device.trim();
    }
    device.pool.resetPeak();
    return await body(model);
  } finally {
    model.dispose();
    device.trim();
  }
}

/** Milliseconds of a token: whole answers by the number of their tokens, prompt and waits included. */
async function measureDecoding(
  model: LanguageModel,
  { prompt: length, answer }: Lengths,
  options: MeasureOptions,
): Promise<Omit<Measured, "shape">> {
  const { device } = model;
  const prompt = randomIds(length, model.config.vocabSize);
  const once = async (maxNewTokens = answer) => {
    const [found] = await generateTokens(model, [prompt], { maxNewTokens, endTokens: [] });
    if (found.length !== maxNewTokens) {
      throw new Error(`Cannot time decoding: got ${found.length} tokens, wanted ${maxNewTokens}`);
    }
  };
  const clock = new ColdRun(device);
  await once(Math.min(2, answer));
  const cold = clock.end();
  await checkLogits(model);
  const run = async (count: number) => {
    for (let i = 0; i < count; i++) await once();
  };
  const { median, min, max, dispatches, clockMhz } = await sampleRuns(device, run, options);
  return {
    ms: median / answer,
    minMs: min / answer,
    maxMs: max / answer,
    tokensPerSecond: 1000 * answer / median,
    ...cold,
    dispatches: dispatches / answer,
    clockMhz,
    ...await memoryOf(device),
    ...options.profile ? { profile: await profile(device, () => once(PROFILED_TOKENS)) } : {},
  };
}

/** Milliseconds of a prompt: its logits at the last place, keys and values kept. Prompts are queued one behind the other. */
async function measurePrefill(
  model: LanguageModel,
  length: number,
  options: MeasureOptions,
): Promise<Omit<Measured, "shape">> {
  const { device } = model;
  const cache = model.newCache(1, length);
  const ids = tensor(device, randomIds(length, model.config.vocabSize), [1, length]);
  const places = tensor(device, Int32Array.of(length - 1));
  const once = () =>
    device.scope(() => {
      noGrad(() => model.forward(ids, { places, cache }));
      device.flush();
    });
  const run = async (count: number) => {
    for (let i = 0; i < count; i++) once();
    await device.finish();
  };
  const own: Tensor[] = [ids, places, cache.past];
  for (const { keys, values } of cache.blocks) own.push(keys, values);
  try {
    const clock = new ColdRun(device);
    await run(1);
    const cold = clock.end();
    await checkLogits(model);
    const { median, min, max, dispatches, clockMhz } = await sampleRuns(device, run, options);
    return {
      ms: median,
      minMs: min,
      maxMs: max,
      tokensPerSecond: 1000 * length / median,
      ...cold,
      dispatches,
      clockMhz,
      ...await memoryOf(device),
      ...options.profile ? { profile: await profile(device, once) } : {},
    };
  } finally {
    for (const t of own.reverse()) t.dispose();
  }
}

/** NF4 with double quantization goes without saying. */
function nameOf(what: string, { name }: ModelShape, layers: LayerType): string {
  return `${what} ${name}${layers === "nf4" ? "" : ` ${layers}`}`;
}

/** A row for answers of one prompt: a token is a run. */
export function decodingWork(model: ModelShape, full: Lengths, layers: LayerType = "nf4"): Work {
  return {
    name: nameOf("decode", model, layers),
    model,
    measure: async (device, size, options) => {
      const lengths = size === "tiny" ? { prompt: 4, answer: 8 } : full;
      const shape = `batch=1 prompt=${lengths.prompt} answer=${lengths.answer}` +
        (size === "tiny" ? " tiny" : "");
      return await withModel(
        device,
        model,
        layers,
        size,
        async (own) => ({ shape, ...await measureDecoding(own, lengths, options) }),
      );
    },
  };
}

/** A row for a prompt that is read: the whole of it is a run. */
export function prefillWork(model: ModelShape, full: number, layers: LayerType = "nf4"): Work {
  return {
    name: nameOf("prefill", model, layers),
    model,
    measure: async (device, size, options) => {
      const length = size === "tiny" ? 16 : full;
      const shape = `batch=1 length=${length}${size === "tiny" ? " tiny" : ""}`;
      return await withModel(
        device,
        model,
        layers,
        size,
        async (own) => ({ shape, ...await measurePrefill(own, length, options) }),
      );
    },
  };
}
