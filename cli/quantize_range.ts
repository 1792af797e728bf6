/** The options of `nibble quantize` that say how a range of weights becomes a scale, and who shares one. */
import { z } from "zod";
import type { IntegerType } from "../kernels/quant/integer.ts";
import { INTEGER_RANGES } from "../kernels/quant/integer_range.ts";
import type { LanguageModel } from "../train/models/language_model.ts";
import { quantizeLayers } from "../train/quant/weight_only.ts";
import type { OptionCheck } from "./option_check.ts";
import type { ChoiceOf } from "./options.ts";

const GROUP = "Choosing integers";

/** Of integers that are rounded to nearest. */
export const RANGE_OPTIONS = {
  range: z.enum(INTEGER_RANGES).optional().meta({
    description:
      "how a range becomes a scale: absmax / 127, absmax / 127.5 or (max − min) / 255 and a zero " +
      "point (in 8 bits); symmetric for int8, asymmetric for others",
    group: GROUP,
  }),
  per: z.enum(["channel", "tensor"]).optional().meta({
    description: "a scale for each row, or one for all, instead of groups",
    group: GROUP,
  }),
};

/** What `RANGE_OPTIONS` give, and what they must fit. */
export interface RangeChoice extends ChoiceOf<typeof RANGE_OPTIONS> {
  readonly method: string;
  readonly quantize: string;
  readonly blockSize?: number;
  readonly policy?: string;
}

/** Whether weights are rounded in another way than loading does. */
export function isRanged({ range, per }: Pick<RangeChoice, "range" | "per">): boolean {
  return (range ?? per) !== undefined;
}

/** Notes what does not go together. */
export function checkRange(choice: RangeChoice, check: OptionCheck<"range" | "per">): void {
  if (!isRanged(choice)) return;
  const { range, per, method, quantize, policy, blockSize } = choice;
  const key = range === undefined ? "per" : "range";
  if (policy !== undefined) {
    check.refuse(key, "leave it out with --policy, whose schemes say it, such as int8-asym-tensor");
  } else if (!quantize.startsWith("int")) {
    check.refuse(key, `it is of integers: wanted --quantize int8 or fewer bits, found ${quantize}`);
  } else if (method !== "round") {
    check.refuse(key, `${method} chooses its own: leave one of them out`);
  }
  if (per !== undefined && blockSize !== undefined) {
    check.refuse("per", "found --block-size too, wanted one of them");
  }
}

/** Rounds the linear layers of a model with plain weights, in place. */
export async function quantizeInRange(model: LanguageModel, choice: RangeChoice): Promise<void> {
  const { quantize, range, per, blockSize: groupSize } = choice;
  (await quantizeLayers(model, { kind: quantize as IntegerType, range, per, groupSize })).commit();
}

/** `, asymmetric`, where it was said. */
export function showRange({ range }: RangeChoice): string {
  return range === undefined ? "" : `, ${range}`;
}
