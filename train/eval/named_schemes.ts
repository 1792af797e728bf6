/**
 * The ways to put a model into few bits that are compared, by the names that they have in tables.
 *
 * @module
 */
import type { LanguageModel } from "../models/language_model.ts";
import type { ActivationRanges } from "../quant/activation_ranges.ts";
import { awqLayers } from "../quant/awq.ts";
import { type CalibrationText, calibrationWindows } from "../quant/calibration.ts";
import { gptqLayers } from "../quant/gptq_layers.ts";
import { splitLayers } from "../quant/outlier_layers.ts";
import {
  parseScheme,
  type QuantizationPolicy,
  quantizeByPolicy,
  schemesOf,
} from "../quant/policy.ts";
import {
  quantizeActivations,
  type QuantizeActivationsOptions,
  readsActivation,
} from "../quant/quantize_activations.ts";
import { rotateLayers } from "../quant/rotate_layers.ts";
import { SMOOTHING } from "../quant/smooth_quant.ts";
import { quantizeLayers } from "../quant/weight_only.ts";

/** A way to put a model into few bits, by the name that it has in tables. */
export type SchemeName = (typeof SCHEME_NAMES)[number];

/** All of them. */
export const SCHEME_NAMES = [
  ...["f32", "int8", "int4", "int3", "int2", "nf4", "nf4-dq", "fp4", "fp4-dq"] as const,
  ...["gptq", "awq", "hqq"] as const,
  ...["w8a8-dynamic", "w8a8-static", "w8a8-smooth", "w8a8-rotated"] as const,
  ...["w4a8", "w4a8-rotated"] as const,
  ...["split", "policy"] as const,
] as const;

/** Those whose activations are in 8 bits as they are, or smoothed. */
const BYTE_SCHEMES: Readonly<Record<string, QuantizeActivationsOptions | undefined>> = {
  "w8a8-dynamic": {},
  "w8a8-static": { activations: "static" },
  // As SmoothQuant is used with models of Llama's kind: what no scale for all tokens covers stays in more bits.
  "w8a8-smooth": {
    activations: (path) => readsActivation(path) ? "none" : "static",
    smooth: SMOOTHING,
  },
  "w4a8": { weights: "int4" },
};

/** Those whose activations are turned before they are put into 8 bits, by the type of their weights. */
const ROTATED: Readonly<Record<string, "int8" | "int4" | undefined>> = {
  "w8a8-rotated": "int8",
  "w4a8-rotated": "int4",
};

/** Whether a scheme looks at a text before it rounds; fixed ranges, if there are any, spare one of them that. */
export function looksAtText(scheme: string, hasRanges: boolean): boolean {
  if (scheme === "w8a8-static") return !hasRanges;
  return ["gptq", "awq", "split"].includes(scheme) || ROTATED[scheme] !== undefined ||
    BYTE_SCHEMES[scheme]?.activations !== undefined;
}

/** What some of the schemes need. */
export interface SchemeNeeds {
  /** What GPTQ, AWQ, static activations, and "split" if given, are calibrated on: another text than the one that is measured. */
  readonly calibration?: CalibrationText;
  /** What "w8a8-static" takes instead of calibrating: `calibrateActivations` found it earlier. */
  readonly ranges?: ActivationRanges;
  /** The share of channels that "split" keeps in 16 bits; 0.1 by default. */
  readonly keep?: number;
  /** What the scheme "policy" follows. */
  readonly policy?: QuantizationPolicy;
}

function textFor(scheme: string, text: CalibrationText | undefined): CalibrationText {
  if (text) return text;
  throw new TypeError(
    `Cannot compare ${scheme} without a text to calibrate on: pass calibration, with other text than is measured`,
  );
}

/** Throws if a scheme lacks what it looks at, or a policy does not fit the model: before minutes of work, and not behind it. */
export function checkNeeds(
  model: LanguageModel,
  schemes: readonly string[],
  { calibration: text, ranges, policy }: SchemeNeeds,
): void {
  for (const scheme of schemes) {
    // A split can do without.
    if (looksAtText(scheme, ranges !== undefined) && (scheme !== "split" || text)) {
      calibrationWindows(model, textFor(scheme, text));
    }
    if (scheme === "policy") schemesOf(model, policyOf(policy));
    if (!(SCHEME_NAMES as readonly string[]).includes(scheme)) parseScheme(scheme);
  }
}

function policyOf(policy: QuantizationPolicy | undefined): QuantizationPolicy {
  if (policy) return policy;
  throw new TypeError('Cannot compare "policy" without one: pass policy, a list of rules');
}

/** Puts a model into few bits, until `restore()`. */
export async function applyScheme(
  model: LanguageModel,
  scheme: string,
  { calibration: text, policy, ranges, keep }: SchemeNeeds,
): Promise<{ restore(): void }> {
  const byBytes = BYTE_SCHEMES[scheme];
  if (byBytes) {
    if (!byBytes.activations) return await quantizeActivations(model, byBytes);
    const found = scheme === "w8a8-static" && ranges
      ? { ranges }
      : { calibration: textFor(scheme, text) };
    return await quantizeActivations(model, { ...byBytes, ...found });
  }
  const turned = ROTATED[scheme];
  if (turned) return await rotateLayers(model, { text: textFor(scheme, text), weights: turned });
  switch (scheme) {
    case "gptq":
      return await gptqLayers(model, { text: textFor(scheme, text) });
    case "awq":
      return await awqLayers(model, { text: textFor(scheme, text) });
    case "split":
      return await splitLayers(model, { text, share: keep });
    case "policy":
      return await quantizeByPolicy(model, policyOf(policy));
    default: {
      const own = parseScheme(scheme);
      return own ? await quantizeLayers(model, own) : { restore() {} };
    }
  }
}
