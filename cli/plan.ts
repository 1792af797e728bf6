/** `nibble plan`: what a model takes in memory in each scheme, and what fits, before anything is downloaded or loaded. */
import { z } from "zod";
import type { Json } from "../train/files/tokenizer.ts";
import { isGgufPath } from "../train/files/gguf.ts";
import { readJsonOf, SMALL_JSON } from "../train/files/input.ts";
import { openGgufModel } from "../train/models/gguf.ts";
import { type MemoryPlan, planMemory, type SchemeMemory } from "../train/quant/memory_plan.ts";
import { type Command, defineCommand } from "./command.ts";
import { MODEL_OPTIONS, modelFolder } from "./model_options.ts";
import { jsonSwitch, textList } from "./options.ts";
import { PLAN_SHAPES } from "./plan_shapes.ts";
import { bytes, count, printJson, printLine, table } from "./print.ts";
import { isSchemeName, readMemory } from "./scheme_option.ts";

const NAMES = Object.keys(PLAN_SHAPES) as [string, ...string[]];

const OPTIONS = z.strictObject({
  model: MODEL_OPTIONS.model.optional(),
  shape: z.enum(NAMES).optional().meta({ description: "a well-known model instead" }),
  memory: z.string().min(1).optional().meta({
    description: "how much there is for the model, such as 8GB or 512MB: says what fits",
    placeholder: "SIZE",
  }),
  tokens: z.int().min(1).optional()
    .meta({ description: "prompt and answer together; 2048, or the context if that is less" }),
  schemes: textList().optional().meta({
    description: "of the linear layers: f32, f16, int8, int4, nf4, nf4-dq, fp4, also as int4-g32",
  }),
  rest: z.enum(["f16", "f32"]).default("f16")
    .meta({ description: "what the embedding and the output layer are kept in" }),
  json: jsonSwitch(),
});

/** The content of a model's config.json, or what a GGUF file says in its place. No weights are read. */
async function configOf(name: string): Promise<{ config: Json; path: string }> {
  const path = await modelFolder(name, isGgufPath(name));
  if (isGgufPath(path)) {
    const { json: config, source } = await openGgufModel(path);
    source.close();
    return { config, path };
  }
  const file = `${path}/config.json`;
  return { config: await readJsonOf(file, "the model's configuration", SMALL_JSON), path: file };
}

function verdict({ fits, tokensThatFit }: SchemeMemory): string[] {
  if (fits === null) return [];
  const most = tokensThatFit! > 0 ? count(tokensThatFit!) : "none";
  return [fits ? "yes" : "no", most];
}

function print(plan: MemoryPlan, memory: number | null): void {
  const all = plan.schemes.map((own) => [
    own.scheme,
    own.bitsPerWeight.toFixed(3),
    bytes(own.linearBytes),
    bytes(own.restBytes),
    bytes(own.cacheBytes),
    bytes(own.workBytes),
    bytes(own.totalBytes),
    ...verdict(own),
  ]);
  const head = [
    "scheme",
    "bits",
    "linear layers",
    "other weights",
    "cache",
    "on the way",
    "together",
  ]
    .concat(memory === null ? [] : [`in ${bytes(memory)}`, "tokens"]);
  printLine(table(head, all, { right: [1, 2, 3, 4, 5, 6, 8] }));
  printLine(
    `${count(plan.parameters)} parameters, ${
      count(plan.linearWeights)
    } of them in linear layers, and a text of ` +
      `${
        count(plan.tokens)
      } tokens. Cache: its keys and values in 32 bits; on the way: what a pass over it computes${
        memory === null ? "" : "; tokens: the longest text that fits"
      }`,
  );
}

const command: Command = defineCommand({
  name: "plan",
  summary: "Say what a model takes in memory in each scheme, and what fits, before loading it",
  examples: [
    ["nibble plan --shape llama-2-7b --memory 8GB", "a 7B model on a phone with 8 GB"],
    ["nibble plan --shape tinyllama-1.1b --memory 1GB --tokens 512", "a smaller one in 1 GB"],
    [
      "nibble plan --model ./SmolLM2-135M --memory 512MB --schemes int8,int4-g32,nf4-dq --json",
      "a model of your own, for machines",
    ],
  ],
  options: OPTIONS,
  check({ model, shape, memory, schemes = [] }, check) {
    if ((model === undefined) === (shape === undefined)) {
      check.refuse("model", "wanted either a model or --shape");
    }
    if (memory !== undefined && readMemory(memory) === null) {
      check.refuse("memory", `found "${memory}", wanted a size such as 8GB, 512MB or 900kB`);
    }
    const wrong = schemes.find((name) => name !== "f16" && !isSchemeName(name));
    if (wrong !== undefined) {
      check.refuse(
        "schemes",
        `found "${wrong}", wanted names such as f32, f16, int8, int4-g32, nf4-dq`,
      );
    }
  },
  async run({ model, shape, memory: text, tokens, schemes, rest, json }) {
    const { config, path } = model === undefined
      ? { config: PLAN_SHAPES[shape!], path: shape! }
      : await configOf(model);
    const memory = text === undefined ? null : readMemory(text);
    const plan = planMemory(
      config,
      { schemes, tokens, rest, memory: memory ?? undefined },
      path,
    );
    if (json) return printJson({ model: model ?? shape, memory, rest, ...plan });
    print(plan, memory);
  },
});
export default command;
