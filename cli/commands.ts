/**
 * The commands by name. Each module is loaded only when its command runs, so that `nibble --help` is quick.
 *
 * @module
 */
import type { Command } from "./command.ts";

/** A command before its module is loaded. The summary stands here too, because the list of commands shows it. */
export interface CommandEntry {
  readonly name: string;
  readonly summary: string;
  readonly load: () => Promise<{ default: Command }>;
}

/** Every command, in the order of `nibble --help`. */
export const COMMANDS: readonly CommandEntry[] = [
  {
    name: "demo",
    summary: "Quantize the embedded model to NF4, fine-tune a LoRA on it, and measure both",
    load: () => import("./demo.ts"),
  },
  {
    name: "train",
    summary: "Fine-tune an adapter on a model, quantized or not, or train all its weights",
    load: () => import("./train.ts"),
  },
  {
    name: "generate",
    summary: "Let a model, with or without an adapter, go on from prompts",
    load: () => import("./generate.ts"),
  },
  {
    name: "chat",
    summary: "Talk to a model, with or without an adapter, through its chat template",
    load: () => import("./chat.ts"),
  },
  {
    name: "eval",
    summary: "Measure a model's perplexity on a text, or its accuracy on examples",
    load: () => import("./eval.ts"),
  },
  {
    name: "quantize",
    summary:
      "Write a model in 2 to 8 bits, and what that costs in accuracy; or explain the numbers",
    load: () => import("./quantize.ts"),
  },
  {
    name: "quantize calibrate",
    summary: "Find the ranges of a model's activations on a text, and what each observer costs",
    load: () => import("./quantize_calibrate.ts"),
  },
  {
    name: "quantize compare",
    summary: "Measure a model in several schemes on one text: perplexity, size, errors, speed",
    load: () => import("./quantize_compare.ts"),
  },
  {
    name: "quantize sensitivity",
    summary:
      "Quantize one layer at a time, see what is lost, and choose bits for each within a size",
    load: () => import("./quantize_sensitivity.ts"),
  },
  {
    name: "quantize digits",
    summary: "Batch norm folded and quantized: accuracy of two small networks on real digits",
    load: () => import("./quantize_digits.ts"),
  },
  {
    name: "merge",
    summary: "Merge an adapter into its model, in plain weights or in 4 bits, as a model folder",
    load: () => import("./merge.ts"),
  },
  {
    name: "export",
    summary: "Write a model, or an adapter alone, as a GGUF file for llama.cpp",
    load: () => import("./export.ts"),
  },
  {
    name: "inspect",
    summary: "List a model's tensors, dtypes and sizes, and an adapter's trainable share",
    load: () => import("./inspect.ts"),
  },
  {
    name: "plan",
    summary: "Say what a model takes in memory in each scheme, and what fits, before loading it",
    load: () => import("./plan.ts"),
  },
  {
    name: "bench",
    summary:
      "Time kernels, each checked against its reference, or whole training steps and answers",
    load: () => import("./bench.ts"),
  },
  {
    name: "ablate",
    summary: "Compare ranks and target modules over several seeds, in a table with error bars",
    load: () => import("./ablate.ts"),
  },
];
