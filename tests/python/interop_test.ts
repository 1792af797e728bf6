/**
 * What nibble writes, transformers and PEFT load, and compute the same: NIBBLE_PYTHON names a Python with torch, transformers and
 * peft, bitsandbytes for 4 bits and compressed-tensors for integers (.ci/run installs them). Where they are missing, it says so.
 */
// deno-lint-ignore-file no-console
import { noGrad } from "../../core/autograd.ts";
import { tensor } from "../../core/tensor.ts";
import { addLora, mergeAdapter } from "../../train/adapters/lora.ts";
import type { DecomposedLoraOptions, LoraOptions } from "../../train/adapters/lora_options.ts";
import { mergeAdapterFourBit } from "../../train/adapters/merge_four_bit.ts";
import { saveAdapter, type SaveAdapterOptions } from "../../train/adapters/peft.ts";
import { generateTokens } from "../../train/eval/generate.ts";
import type { LanguageModel } from "../../train/models/language_model.ts";
import { loadModel, type LoadOptions } from "../../train/models/load.ts";
import { saveModel, type SaveModelOptions } from "../../train/models/save.ts";
import {
  quantizeActivations,
  type QuantizeActivationsOptions,
} from "../../train/quant/quantize_activations.ts";
import { assert, assertEquals, relativeError } from "../assert.ts";
import { device, randomNumbers } from "../device.ts";
import { lacking, python } from "./python.ts";

const GOLDEN = new URL("../golden/", import.meta.url).pathname;
const SCRIPT = new URL("logits.py", import.meta.url).pathname;

/** Ids that every golden model has. */
const ROWS = [0, 1].map((row) =>
  Array.from({ length: 24 }, (_, i) => (31 * i + 7 * row + 3) % 256)
);

/** An adapter that is written, loaded in Python, and compared. */
interface AdapterCase {
  readonly base: string;
  readonly options: LoraOptions | DecomposedLoraOptions;
  readonly save?: SaveAdapterOptions;
  /** Of the largest logit: 1e-5 where nothing else is said. */
  readonly bound?: number;
}

const ADAPTERS: Readonly<Record<string, AdapterCase>> = {
  "LoRA": { base: "llama", options: { r: 4, alpha: 8, targetModules: ["q_proj", "v_proj"] } },
  "LoRA on all layers, with patterns": {
    base: "llama-tied",
    options: {
      r: 4,
      alpha: 6,
      useRslora: true,
      dropout: 0.1,
      rankPattern: { down_proj: 2, "layers.1.self_attn.q_proj": 7 },
      alphaPattern: { "mlp.*": 3 },
    },
  },
  "LoRA by a regular expression": {
    base: "qwen2",
    options: {
      r: 3,
      targetModules: String.raw`model\.layers\.\d+\.(self_attn\.[qk]|mlp\.up)_proj`,
    },
  },
  "LoRA in some blocks, with layers left out": {
    base: "llama",
    options: {
      r: 2,
      layersToTransform: [1],
      layersPattern: ["layers"],
      excludeModules: ["o_proj", "gate_proj"],
    },
  },
  "LoRA with whole modules": {
    base: "llama",
    options: {
      r: 2,
      targetModules: ["q_proj", "up_proj"],
      modulesToSave: ["embed_tokens", "lm_head", "norm"],
    },
  },
  "DoRA": { base: "qwen2", options: { r: 4, alpha: 8, useDora: true } },
  "DoRA from Gaussian numbers": {
    base: "llama",
    options: { r: 4, useDora: true, init: "gaussian", targetModules: ["v_proj", "down_proj"] },
  },
  "LoRA on GPT-2": { base: "gpt2", options: { r: 3, modulesToSave: ["ln_f"] } },
  "DoRA on GPT-2": {
    base: "gpt2",
    options: { r: 3, useDora: true, targetModules: ["c_attn", "c_fc"], layersToTransform: [0] },
  },
  "PiSSA on GPT-2": { base: "gpt2", options: { r: 3, init: "pissa", targetModules: ["c_attn"] } },
  "PiSSA": { base: "llama", options: { r: 4, alpha: 8, init: "pissa" } },
  "OLoRA": { base: "llama", options: { r: 4, alpha: 2, useRslora: true, init: "olora" } },
  "PiSSA, taken apart in PEFT": {
    base: "llama",
    options: { r: 4, alpha: 8, init: "pissa" },
    save: { toPlainLora: false },
    // PEFT's decomposition is in 32 bits, and singular vectors are as exact as singular values are apart.
    bound: 1e-4,
  },
  "OLoRA, taken apart in PEFT": {
    base: "llama",
    options: { r: 4, alpha: 2, init: "olora" },
    save: { toPlainLora: false },
  },
};

/** A model that is written, loaded in Python, and compared. */
interface ModelCase {
  /** "llama" where nothing else is said. */
  readonly base?: string;
  readonly load?: LoadOptions;
  readonly save?: SaveModelOptions;
  /** What is done with it, an adapter on it, before it is saved. */
  readonly merge?: (model: LanguageModel) => unknown;
  /** How weights and activations are put into integers before it is saved. */
  readonly integers?: QuantizeActivationsOptions;
  /** What Python needs beside transformers. */
  readonly needs?: "bitsandbytes" | "compressed_tensors";
  /** Of the largest logit: 1e-5 where nothing else is said. */
  readonly bound?: number;
  /** The share of places that must be within 1e-5 whatever the others are; all by default. */
  readonly alike?: number;
}

/** Where inputs are rounded, a sum that differs in its last bit sends one of them to the other side now and then. */
const ROUNDED = 0.03;

/** Ranges of activations are found on what is computed: nothing is clipped, to −127 here and to −128 in Python. */
const CALIBRATION = { ids: ROWS.flat(), window: ROWS[0].length };

const MODELS: Readonly<Record<string, ModelCase>> = {
  "a merged model": { merge: mergeAdapter },
  "a merged model in bf16": { merge: mergeAdapter, save: { dtype: "bf16" } },
  "a merged GPT-2 in f16": { base: "gpt2", merge: mergeAdapter, save: { dtype: "f16" } },
  "a merged GPT-2": { base: "gpt2", merge: mergeAdapter },
  "a merged 4-bit model, decoded": {
    load: { quantize: "nf4" },
    save: { dequantize: true },
    merge: mergeAdapter,
  },
  "a model in NF4, double quantization": {
    load: { quantize: "nf4", doubleQuant: true },
    needs: "bitsandbytes",
  },
  // In blocks of 64, as wide as the model: where blocks are cut by rows, bitsandbytes 0.50.2 decodes wrongly on CPUs, its own too.
  "a model in FP4": { load: { quantize: "fp4" }, needs: "bitsandbytes" },
  "a model merged into NF4": {
    merge: (model) => mergeAdapterFourBit(model, { type: "nf4", doubleQuant: true }),
    needs: "bitsandbytes",
  },
  "a model in INT8": { load: { quantize: "int8" }, needs: "compressed_tensors" },
  "a model in W8A8, static": {
    integers: { activations: "static", calibration: CALIBRATION },
    needs: "compressed_tensors",
    ...{ bound: ROUNDED, alike: 0.25 },
  },
  "a model in W8A8, static with zero points, smoothed, in groups": {
    integers: {
      ...{ activations: "static", calibration: CALIBRATION, kind: "asymmetric" },
      ...{ smooth: 0.5, groupSize: 32 },
    },
    needs: "compressed_tensors",
    ...{ bound: ROUNDED, alike: 0.25 },
  },
  "a model in W8A8, dynamic but for one layer in f32": {
    integers: { activations: (path) => path.endsWith("0.mlp.down_proj") ? "none" : "dynamic" },
    needs: "compressed_tensors",
    // compressed-tensors divides by 127.5 where engines that multiply bytes divide by 127.
    ...{ bound: ROUNDED, alike: 0 },
  },
};

/** Ids that are a prompt, and ids of the answer. */
const [PROMPT, ANSWER] = [8, 12];

/** What nibble computes. */
interface Computed {
  readonly logits: Float32Array;
  /** The greedy answer to the beginning of the first row. */
  readonly answer: readonly number[];
}

async function computeHere(model: LanguageModel): Promise<Computed> {
  const ids = tensor(device, Int32Array.from(ROWS.flat()), [ROWS.length, ROWS[0].length]);
  const logits = await noGrad(() => model.forward(ids)).read() as Float32Array;
  const prompts = [ROWS[0].slice(0, PROMPT)];
  const [answer] = await generateTokens(model, prompts, { maxNewTokens: ANSWER, endTokens: [] });
  return { logits, answer: [...answer] };
}

/** Numbers like those that training leaves, in everything that an adapter trains. */
async function pretendTraining(model: LanguageModel): Promise<void> {
  let seed = 11;
  for (const [, own] of [...model.parameters()]) {
    const numbers = await own.read();
    const noise = randomNumbers(own.size, seed++, 0.05);
    device.write(own, Float32Array.from(noise, (value, i) => numbers[i] + value));
  }
}

/** A folder that was written, and what nibble computes with it. */
interface Job {
  readonly name: string;
  readonly model: string;
  readonly adapter: string | null;
  readonly out: string;
  readonly wanted: Computed;
  readonly bound: number;
  readonly alike?: number;
}

async function writeAdapter(
  root: string,
  name: string,
  { base, options, save, bound = 1e-5 }: AdapterCase,
): Promise<Job> {
  const model = await loadModel(device, `${GOLDEN}${base}`);
  const lora = await addLora(model, options as DecomposedLoraOptions);
  await pretendTraining(model);
  const adapter = `${root}/${name}`;
  await saveAdapter(lora, adapter, { ...save, baseModel: base });
  const wanted = await computeHere(model);
  model.dispose();
  return { name, model: `${GOLDEN}${base}`, adapter, out: `${adapter}.f32`, wanted, bound };
}

async function writeModel(
  root: string,
  name: string,
  { base = "llama", load, save, merge, integers, bound = 1e-5, alike }: ModelCase,
): Promise<Job> {
  const model = await loadModel(device, `${GOLDEN}${base}`, load);
  if (integers) (await quantizeActivations(model, integers)).commit();
  if (merge) {
    addLora(model, { r: 4, useDora: true });
    await pretendTraining(model);
    await merge(model);
  }
  const folder = `${root}/${name}`;
  await saveModel(model, folder, save);
  // What was rounded while it was written is read again.
  const written = save?.dtype ? await loadModel(device, folder) : model;
  const wanted = await computeHere(written);
  for (const own of new Set([model, written])) own.dispose();
  return { name, model: folder, adapter: null, out: `${folder}.f32`, wanted, bound, alike };
}

/** The share of places whose logits differ by 1e-5 of the largest at most. */
function sharePlaces(wanted: Float32Array, found: Float32Array): number {
  const places = ROWS.flat().length;
  const width = wanted.length / places;
  const most = wanted.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
  let alike = 0;
  for (let at = 0; at < wanted.length; at += width) {
    const own = found.subarray(at, at + width);
    if (own.every((x, i) => Math.abs(x - wanted[at + i]) <= 1e-5 * most)) alike++;
  }
  return alike / places;
}

Deno.test("transformers and PEFT compute with nibble's folders what nibble does", async (t) => {
  const reason = await lacking("torch, transformers, peft");
  if (reason) return console.log(`skipped: torch, transformers and peft are wanted (${reason})`);
  const absent = new Set<string>();
  for (const [module, what] of [["bitsandbytes", "4-bit"], ["compressed_tensors", "integer"]]) {
    const fault = await lacking(module);
    if (!fault) continue;
    absent.add(module);
    console.log(`skipped: ${what} folders, as ${module} is wanted (${fault})`);
  }
  const root = await Deno.makeTempDir();
  try {
    const jobs: Job[] = [];
    for (const [name, own] of Object.entries(ADAPTERS)) {
      jobs.push(await writeAdapter(root, name, own));
    }
    for (const [name, own] of Object.entries(MODELS)) {
      if (!absent.has(own.needs ?? "")) jobs.push(await writeModel(root, name, own));
    }
    const plan = {
      ids: ROWS,
      prompt: PROMPT,
      answer: ANSWER,
      jobs: jobs.map(({ wanted: _, alike: __, ...job }) => job),
    };
    await Deno.writeTextFile(`${root}/jobs.json`, JSON.stringify(plan));
    const { code, text } = await python(SCRIPT, `${root}/jobs.json`);
    assertEquals(code, 0, text);
    console.log(text.split("\n").at(-1));
    for (const { name, out, wanted, bound, alike } of jobs) {
      await t.step(name, async () => {
        const fault = await Deno.readTextFile(`${out}.error`).catch(() => null);
        assert(fault === null, fault ?? "");
        const found = new Float32Array((await Deno.readFile(out)).buffer);
        const size = wanted.logits.length;
        assertEquals(found.length, size + ANSWER);
        const logits = found.subarray(0, size);
        const error = relativeError(wanted.logits, logits);
        const share = sharePlaces(wanted.logits, logits);
        console.log(`${error.toExponential(1)} of the largest logit, ${share} of the places alike`);
        assert(error <= bound, `relative error ${error}, allowed ${bound}`);
        if (alike !== undefined) assert(share >= alike, `${share} of the places are alike`);
        else assertEquals([...found.subarray(size)], wanted.answer);
      });
    }
  } finally {
    await Deno.remove(root, { recursive: true });
  }
});
