/**
 * What can be said about a LoRA, with its defaults.
 *
 * @module
 */
import { ALL_LINEAR } from "./targets.ts";

/** What kind of LoRA to add. */
export interface LoraOptions {
  /** The rank: 8 by default. */
  readonly r?: number;
  /** The update is scaled by alpha / r: 16 by default, twice the default rank. */
  readonly alpha?: number;
  /** The probability with which elements of A's input are dropped in training; 0 by default. */
  readonly dropout?: number;
  /**
   * Which linear layers: a list of names (`["q_proj", "v_proj"]`) or paths, a regular expression for whole paths, or
   * "all-linear", the default: what matters most in QLoRA is an adapter on every layer (Dettmers et al., arXiv 2305.14314,
   * figure 2).
   */
  readonly targetModules?: readonly string[] | string;
  /** Layers to leave out, in the same way; they win over `targetModules`. */
  readonly excludeModules?: readonly string[] | string;
  /** Only the blocks with these numbers. */
  readonly layersToTransform?: readonly number[];
  /** The name before a block's number, where a path has several: `layers`, or `h` in GPT-2. */
  readonly layersPattern?: readonly string[];
  /** Ends of modules' paths, such as "embed_tokens", "lm_head" or "norm": they are trained whole, and saved whole beside A and B. */
  readonly modulesToSave?: readonly string[];
  /** Scale by alpha / √r, so that large ranks learn as fast as small ones. */
  readonly useRslora?: boolean;
  /** DoRA: the norms of the rows are trained apart from their directions (Liu et al., arXiv 2402.09353). */
  readonly useDora?: boolean;
  /** How A and B begin. `true`, the default: A Kaiming-uniform, B zero. "gaussian": A normal with deviation 1 / r, B zero. */
  readonly init?: true | "gaussian";
  /** The same seed gives the same A and the same dropout. 0 by default. */
  readonly seed?: number;
  /** Ranks of single layers, by a regular expression for the end of the path; the first that matches counts. */
  readonly rankPattern?: Readonly<Record<string, number>>;
  /** The same for alpha. */
  readonly alphaPattern?: Readonly<Record<string, number>>;
}

/** The options of a LoRA that begins with a part of the weights. */
export interface DecomposedLoraOptions extends Omit<LoraOptions, "init"> {
  /** A and B are taken out of each weight, which keeps the rest: see `addLora`. */
  readonly init: "pissa" | "olora";
}

/** The options of a LoRA with defaults in place, however it begins. */
export interface CompleteLora extends Required<Omit<LoraOptions, "init">> {
  /** How A and B begin. */
  readonly init: true | "gaussian" | "pissa" | "olora";
}

function checkRank(r: number, name: string): void {
  if (Number.isSafeInteger(r) && r >= 1) return;
  throw new RangeError(`Cannot add LoRA: found ${name} ${r}, wanted a whole number of at least 1`);
}

function checkAlpha(alpha: number, name: string): void {
  if (Number.isFinite(alpha) && alpha > 0) return;
  throw new RangeError(`Cannot add LoRA: found ${name} ${alpha}, wanted a number above 0`);
}

function checkLayers({ targetModules, layersToTransform, layersPattern }: CompleteLora): void {
  const wrong = layersToTransform.find((i) => !Number.isSafeInteger(i) || i < 0);
  if (wrong !== undefined) {
    throw new RangeError(
      `Cannot add LoRA: found ${wrong} in layersToTransform, wanted numbers of blocks, from 0 on`,
    );
  }
  // PEFT refuses both too: what it could mean to other readers is not known.
  const isExpression = typeof targetModules === "string" && targetModules !== ALL_LINEAR;
  if (layersToTransform.length > 0 && isExpression) {
    throw new TypeError(
      `Cannot add LoRA: found layersToTransform beside the regular expression "${targetModules}", wanted a list of target ` +
        "modules; or say the layers in the expression",
    );
  }
  if (layersPattern.length > 0 && layersToTransform.length === 0) {
    throw new TypeError(
      "Cannot add LoRA: found layersPattern without layersToTransform, which says which blocks; give both",
    );
  }
}

/** The options with defaults in place. */
export function completeLora(options: LoraOptions | DecomposedLoraOptions): CompleteLora {
  const complete: CompleteLora = {
    r: options.r ?? 8,
    alpha: options.alpha ?? 16,
    dropout: options.dropout ?? 0,
    targetModules: options.targetModules ?? ALL_LINEAR,
    excludeModules: options.excludeModules ?? [],
    layersToTransform: options.layersToTransform ?? [],
    layersPattern: options.layersPattern ?? [],
    modulesToSave: options.modulesToSave ?? [],
    useRslora: options.useRslora ?? false,
    useDora: options.useDora ?? false,
    init: options.init ?? true,
    seed: options.seed ?? 0,
    rankPattern: options.rankPattern ?? {},
    alphaPattern: options.alphaPattern ?? {},
  };
  const { r, alpha, dropout, init, rankPattern, alphaPattern } = complete;
  checkRank(r, "r");
  checkAlpha(alpha, "alpha");
  for (const key in rankPattern) checkRank(rankPattern[key], `the rank of "${key}"`);
  for (const key in alphaPattern) checkAlpha(alphaPattern[key], `the alpha of "${key}"`);
  if (!(dropout >= 0 && dropout < 1)) {
    throw new RangeError(
      `Cannot add LoRA: found dropout ${dropout}, wanted a probability of at least 0 and below 1`,
    );
  }
  if (![true, "gaussian", "pissa", "olora"].includes(init)) {
    throw new RangeError(
      `Cannot add LoRA: found init "${init}", wanted true, "gaussian", "pissa" or "olora"`,
    );
  }
  checkLayers(complete);
  return complete;
}
