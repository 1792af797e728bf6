/**
 * How a config.json says that positions are counted: RoPE's base, and one of the ways to stretch it over longer texts.
 *
 * @module
 */
import { ConfigFields } from "./config.ts";

/** Positions divided by a factor (Chen et al., "Extending context window by position interpolation", arXiv 2306.15595). */
export interface LinearRope {
  /** Tells the kinds apart. */
  readonly kind: "linear";
  /** What positions are divided by. */
  readonly factor: number;
}

/**
 * A base that grows with the text ("dynamic NTK"). Within the context that the model was trained on it is the plain base, and
 * nibble applies no model beyond its context, so there it changes nothing.
 */
export interface DynamicRope {
  /** Tells the kinds apart. */
  readonly kind: "dynamic";
  /** How fast the base grows. */
  readonly factor: number;
  /** The context that the model was trained on. */
  readonly originalLength: number;
}

/** Llama 3.1's: long waves are stretched, short ones kept, those between mixed. */
export interface Llama3Rope {
  /** Tells the kinds apart. */
  readonly kind: "llama3";
  /** By how much long waves are stretched. */
  readonly factor: number;
  /** Waves that fit less often than this into the original context are long. */
  readonly lowFrequency: number;
  /** Waves that fit more often than this into the original context are short. */
  readonly highFrequency: number;
  /** The context that the model was trained on. */
  readonly originalLength: number;
}

/** YaRN (Peng et al., arXiv 2309.00071): as Llama 3.1's, but mixed by number of the wave; and cosines and sines are scaled. */
export interface YarnRope {
  /** Tells the kinds apart. */
  readonly kind: "yarn";
  /** By how much long waves are stretched. */
  readonly factor: number;
  /** Waves that turn more often than this in the original context are short. */
  readonly betaFast: number;
  /** Waves that turn less often than this in the original context are long. */
  readonly betaSlow: number;
  /** Whether the bounds between short and long are rounded to whole waves. */
  readonly truncate: boolean;
  /** What cosines and sines are multiplied by, which makes attention sharper. */
  readonly attentionFactor: number;
  /** The context that the model was trained on. */
  readonly originalLength: number;
}

/** A way to stretch rotary positions over longer texts. */
export type RopeScaling = LinearRope | DynamicRope | Llama3Rope | YarnRope;

/** How positions are counted. */
export interface RopeConfig {
  /** The base of the wave lengths. */
  readonly theta: number;
  /** How they are stretched, or null. */
  readonly scaling: RopeScaling | null;
}

/** YaRN's factor of cosines and sines, by its paper, or by DeepSeek's two numbers. */
function attentionFactor(rope: ConfigFields, factor: number): number {
  if (typeof rope.json.attention_factor === "number") return rope.json.attention_factor;
  const scaleBy = (m: number) => factor <= 1 ? 1 : 0.1 * m * Math.log(factor) + 1;
  const { mscale, mscale_all_dim: all } = rope.json;
  return mscale && all
    ? scaleBy(rope.number("mscale")) / scaleBy(rope.number("mscale_all_dim"))
    : scaleBy(1);
}

function scalingOf(
  rope: ConfigFields,
  fields: ConfigFields,
  contextLength: number,
): RopeScaling | null {
  const field = rope.json.rope_type === undefined ? "type" : "rope_type";
  const kind: unknown = rope.json[field] ?? "default";
  // As in transformers, the outer field counts before the inner one.
  const originalLength = () =>
    (fields.json.original_max_position_embeddings ?? null) === null
      ? rope.count("original_max_position_embeddings", contextLength)
      : fields.count("original_max_position_embeddings");
  switch (kind) {
    case "default":
      return null;
    case "linear":
      return { kind, factor: rope.number("factor") };
    case "dynamic":
      return { kind, factor: rope.number("factor"), originalLength: contextLength };
    case "llama3": {
      const lowFrequency = rope.number("low_freq_factor");
      const highFrequency = rope.number("high_freq_factor");
      if (highFrequency <= lowFrequency) {
        throw rope.fault("high_freq_factor", `a number above low_freq_factor, ${lowFrequency}`);
      }
      const factor = rope.number("factor");
      return { kind, factor, lowFrequency, highFrequency, originalLength: originalLength() };
    }
    case "yarn": {
      const length = originalLength();
      const factor = rope.number("factor", contextLength / length);
      return {
        kind,
        factor,
        betaFast: rope.number("beta_fast", 32),
        betaSlow: rope.number("beta_slow", 1),
        truncate: rope.flag("truncate", true),
        attentionFactor: attentionFactor(rope, factor),
        originalLength: length,
      };
    }
  }
  throw rope.fault(field, '"default", "linear", "dynamic", "llama3" or "yarn"');
}

/**
 * RoPE's base and scaling: in `rope_parameters` since transformers 5, in `rope_theta` and `rope_scaling` before.
 *
 * @param fields the config.json
 * @param contextLength its `max_position_embeddings`
 * @throws {TypeError} if the scaling is of a kind that nibble does not have, or a number in it makes no sense
 */
export function readRope(fields: ConfigFields, contextLength: number): RopeConfig {
  // The older name counts where both are there, as in transformers.
  const older = fields.section("rope_scaling");
  const isEmpty = !older || Object.keys(older.json).length === 0;
  const rope = (isEmpty ? fields.section("rope_parameters") : older) ??
    new ConfigFields({}, fields.path);
  for (const [key, value] of Object.entries(rope.json)) {
    // Lists are of other kinds of scaling, which are refused by their own names.
    if (value === null || typeof value !== "object" || Array.isArray(value)) continue;
    throw rope.fault(key, "a number: positions that are counted otherwise in each layer");
  }
  for (const place of [fields, rope]) place.only("partial_rotary_factor", 1);
  const theta = (rope.json.rope_theta ?? null) === null
    ? fields.number("rope_theta", 10_000)
    : rope.number("rope_theta");
  return { theta, scaling: scalingOf(rope, fields, contextLength) };
}
