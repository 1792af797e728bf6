/** The options of `nibble quantize` that say how integers are chosen, and what they are chosen on. */
import { z } from "zod";
import { readText } from "../train/data/dataset.ts";
import type { LanguageModel } from "../train/models/language_model.ts";
import { awqLayers } from "../train/quant/awq.ts";
import type { CalibrationText } from "../train/quant/calibration.ts";
import { type GptqBits, gptqLayers } from "../train/quant/gptq_layers.ts";
import { embedded } from "./embedded.ts";
import { progress } from "./progress.ts";

const GROUP = "Choosing integers";

/** How, and the text that a model is calibrated on. */
export const METHOD_OPTIONS = {
  method: z.enum(["round", "gptq", "awq"]).default("round").meta({
    description:
      "round to nearest, or look at a text: gptq for integers, awq for those of 4 bits and fewer",
    group: GROUP,
  }),
  calibration: z.string().min(1).optional().meta({
    description:
      "the text (with --method or --activations); by default definitions that come with nibble",
    placeholder: "FILE",
    group: GROUP,
  }),
  calibrationTokens: z.int().min(2).default(8192)
    .meta({ description: "how many tokens of it are read at most", group: GROUP }),
};

/** What `METHOD_OPTIONS` give, and the type that they must fit. */
export interface MethodChoice {
  readonly method: "round" | "gptq" | "awq";
  readonly calibration?: string;
  readonly calibrationTokens: number;
  readonly quantize: string;
  readonly policy?: string;
  readonly blockSize?: number;
}

/** Notes what does not go together; `needsText` if a text is read anyway. */
export function checkMethod(
  { method, calibration, quantize, policy }: MethodChoice,
  needsText: boolean,
  context: z.RefinementCtx,
): void {
  const refuse = (path: string, message: string) =>
    context.addIssue({ code: "custom", message, path: [path] });
  if (method === "round") {
    if (calibration !== undefined && !needsText) {
      refuse("calibration", "wanted --method gptq or awq with it, or --activations static");
    }
    return;
  }
  if (policy !== undefined) refuse("method", "leave it out with --policy");
  const fitting = ["int4", "int3", "int2", ...method === "gptq" ? ["int8"] : []];
  if (!fitting.includes(quantize)) {
    refuse(
      "method",
      `${method} gives ${fitting.slice(0, -1).join(", ")} or ${
        fitting.at(-1)
      }: wanted --quantize with it, found ${quantize}`,
    );
  }
}

/** The text that a model is calibrated on; `what` says what for. */
export async function calibrationText(
  { tokenizer }: LanguageModel,
  { calibration, calibrationTokens }: MethodChoice,
  what: string,
): Promise<CalibrationText> {
  if (!tokenizer) {
    throw new TypeError(
      `Cannot quantize ${what}: the model has no tokenizer.json, wanted its own tokenizer in its folder`,
    );
  }
  const read = calibration ?? (await embedded()).heldout;
  return { ids: tokenizer.encode((await readText(read)).text).subarray(0, calibrationTokens) };
}

/** Quantizes the linear layers of a model with plain weights, in place, by what it makes of a text. */
export async function quantizeByMethod(
  model: LanguageModel,
  choice: MethodChoice,
  json: boolean,
): Promise<void> {
  const { method, quantize, blockSize: groupSize } = choice;
  const text = await calibrationText(model, choice, `by ${method}`);
  using bar = progress({ total: [...model.linearLayers()].length, label: "Quantizing", json });
  const onProgress = (done: number) => bar.update(done);
  const made = method === "gptq"
    ? await gptqLayers(model, {
      text,
      bits: Number(quantize.slice(3)) as GptqBits,
      groupSize,
      onProgress,
    })
    : await awqLayers(model, { text, bits: Number(quantize.slice(3)) as 4 | 3 | 2, groupSize });
  made.commit();
}
