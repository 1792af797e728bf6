/**
 * Which layer gets how many bits, by name: a list of rules, in code or in a JSON file.
 *
 * @module
 */
import type { IntegerType } from "../../kernels/quant/integer.ts";
import type { IntegerRange } from "../../kernels/quant/integer_range.ts";
import { nearest } from "../../core/nearest.ts";
import { readJsonOf, SMALL_JSON } from "../files/input.ts";
import { brief } from "../files/json_text.ts";
import { writeWhole } from "../files/output.ts";
import type { LanguageModel } from "../models/language_model.ts";
import { LinearLayer } from "../nn/linear.ts";
import { quantizeLayers, type ReplacedLayers, type WeightScheme } from "./weight_only.ts";

/** A rule of a policy. */
export interface PolicyRule {
  /**
   * Which layers: names such as "q_proj" or "model.layers.0.mlp.up_proj", which fit a path or the end of it behind a dot; with
   * stars, `"*.layers.0.*"`, which stand for any text of a path; or a regular expression between slashes, `"/layers\.[0-3]\./"`.
   */
  readonly layers: string | readonly string[];
  /**
   * In what: "f32", which leaves them as they are, "int8", "int4", "int3", "int2", "hqq", which "hqq3" and "hqq2" have in fewer
   * bits, "nf4", "nf4-dq", "fp4", "fp4-dq", each also with weights to a scale, "int4-g32", and with a share of the channels in 16
   * bits, "int4+10%"; or a scheme as `quantizeLayers` takes it.
   */
  readonly scheme: string | WeightScheme;
}

/** Rules for the linear layers of a model. */
export interface QuantizationPolicy {
  /** At most one may name a layer. */
  readonly rules: readonly PolicyRule[];
  /** What layers get that no rule names; "f32" by default. */
  readonly otherwise?: string | WeightScheme;
}

const SCHEME = /^(hqq[432]?|nf4|fp4)(-dq)?(?:-g(\d+))?$/;

/** Integers, how a range becomes a scale, and who shares one. */
const INTEGER_SCHEME = /^(int[8432])(?:-(sym|full|asym))?(?:-(channel|tensor)|-g(\d+))?$/;
const RANGES: Readonly<Record<string, IntegerRange>> = {
  sym: "symmetric",
  full: "symmetric-full",
  asym: "asymmetric",
};

/**
 * A scheme by its name; null for "f32".
 *
 * @throws {RangeError} for another name
 *
 * @example
 * ```ts
 * import { parseScheme } from "@nibble/nibble";
 *
 * console.log(parseScheme("int4-g32")); // { kind: "int4", groupSize: 32 }
 * ```
 */
export function parseScheme(name: string): WeightScheme | null {
  if (name === "f32") return null;
  const [, rest, percents] = /^(.*)\+(\d+(?:\.\d+)?)%$/.exec(name) ?? [];
  if (percents !== undefined && Number(percents) > 0 && Number(percents) < 100) {
    const own = parseScheme(rest);
    if (own && own.kind !== "split") {
      return { kind: "split", rest: own, share: Number(percents) / 100 };
    }
  }
  const [, type, range, per, group] = INTEGER_SCHEME.exec(name) ?? [];
  if (type && Number(group ?? 1) > 0) {
    return {
      kind: type as IntegerType,
      ...range && { range: RANGES[range] },
      ...per && { per: per as "channel" | "tensor" },
      ...group && { groupSize: Number(group) },
    };
  }
  const [, kind, nested, digits] = SCHEME.exec(name) ?? [];
  const size = digits === undefined ? undefined : Number(digits);
  if (kind === "nf4" || kind === "fp4") {
    return { kind, ...nested && { doubleQuant: true }, ...size && { blockSize: size } };
  }
  if (!kind || nested || size === 0) {
    throw new RangeError(
      `Cannot quantize to ${
        brief(name)
      }: wanted f32, int8, int4, int3, int2, hqq, hqq3, hqq2, nf4, nf4-dq, fp4 or fp4-dq, which may end in -g and the weights of a scale, int4-g32, integers also in -channel or -tensor, and before that in -sym, -full or ` +
        "-asym, int8-asym-tensor, and all in + and the percents of channels that stay in 16 bits, int4+10%",
    );
  }
  const bits = Number(kind.slice(3) || 4) as 4 | 3 | 2;
  return { kind: "hqq", ...bits !== 4 && { bits }, ...size && { groupSize: size } };
}

/** A scheme's name, as `parseScheme` reads it. */
export function showScheme(scheme: WeightScheme | null): string {
  if (!scheme) return "f32";
  if (scheme.kind === "split") {
    return `${showScheme(scheme.rest)}+${Number((100 * scheme.share).toPrecision(12))}%`;
  }
  const size = "groupSize" in scheme
    ? scheme.groupSize
    : "blockSize" in scheme
    ? scheme.blockSize
    : undefined;
  const bits = "bits" in scheme && scheme.bits !== 4 ? scheme.bits ?? "" : "";
  const range = "range" in scheme && scheme.range !== undefined
    ? `-${Object.keys(RANGES).find((name) => RANGES[name] === scheme.range)}`
    : "";
  const per = "per" in scheme && scheme.per !== undefined ? `-${scheme.per}` : "";
  const nested = "doubleQuant" in scheme && scheme.doubleQuant ? "-dq" : "";
  return `${scheme.kind}${bits}${nested}${range}${per}${size === undefined ? "" : `-g${size}`}`;
}

function schemeOf(scheme: string | WeightScheme): WeightScheme | null {
  return typeof scheme === "string" ? parseScheme(scheme) : scheme;
}

/** Whether a pattern names a path. */
function matcher(pattern: string): (path: string) => boolean {
  if (pattern.length > 2 && pattern.startsWith("/") && pattern.endsWith("/")) {
    let expression: RegExp;
    try {
      expression = new RegExp(pattern.slice(1, -1));
    } catch (error) {
      throw new SyntaxError(
        `Cannot read the pattern ${brief(pattern)} of a policy: ${(error as Error).message}`,
      );
    }
    return (path) => expression.test(path);
  }
  if (!pattern.includes("*")) return (path) => path === pattern || path.endsWith(`.${pattern}`);
  const parts = pattern.split("*").map((part) => part.replace(/[\\^$.+?()[\]{}|/-]/g, "\\$&"));
  const whole = new RegExp(`^${parts.join(".*")}$`);
  return (path) => whole.test(path);
}

/** What else has weights: embeddings, norms, the output layer. They stay in 32 bits. */
function keptPaths(model: LanguageModel, layers: ReadonlySet<string>): string[] {
  const kept: string[] = [];
  for (const [path, module] of model.modules()) {
    if (layers.has(path)) continue;
    if (module instanceof LinearLayer || [...module.tensors()].length > 0) kept.push(path);
  }
  return kept;
}

/**
 * What a policy gives each linear layer of a model; null is 32 bits.
 *
 * @throws {RangeError} if a rule names no layer, or a layer that is not linear and would not be left as it is, or two rules name one
 *
 * @example
 * ```ts
 * import { openDevice, randomModel, schemesOf } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const model = randomModel(device, {
 *   model_type: "llama",
 *   vocab_size: 320,
 *   hidden_size: 64,
 *   intermediate_size: 128,
 *   num_hidden_layers: 2,
 *   num_attention_heads: 4,
 * });
 * const rules = [
 *   { layers: ["q_proj", "k_proj", "v_proj", "o_proj"], scheme: "int8" },
 *   { layers: "*.layers.0.mlp.*", scheme: "f32" },
 * ];
 * console.log(schemesOf(model, { rules, otherwise: "int4" }));
 * ```
 */
export function schemesOf(
  model: LanguageModel,
  { rules, otherwise = "f32" }: QuantizationPolicy,
): Map<string, WeightScheme | null> {
  const rest = schemeOf(otherwise);
  const schemes = new Map([...model.linearLayers()].map(([path]) => [path, rest]));
  const layers = new Set(schemes.keys());
  const kept = keptPaths(model, layers);
  const ruleOf = new Map<string, number>();
  rules.forEach(({ layers: patterns, scheme }, index) => {
    const own = schemeOf(scheme);
    for (const pattern of [patterns].flat()) {
      const names = matcher(pattern);
      const found = [...layers].filter(names);
      const others = kept.filter(names);
      if (found.length === 0 && others.length === 0) {
        const some = [...layers].slice(0, 3).map((path) => brief(path)).join(", ");
        throw new RangeError(
          `Cannot follow rule ${index + 1} of the policy: ${
            brief(pattern)
          } names no layer; the model has ${layers.size}, such as ${some}; a name fits the end of a path, and ` +
            '"*.layers.0.*" and "/layers\\.[0-3]\\./" what is in it',
        );
      }
      if (found.length === 0 && own) {
        throw new RangeError(
          `Cannot follow rule ${index + 1} of the policy: ${brief(pattern)} names ${
            brief(others[0])
          }, which is not a linear layer between embedding and output and stays in 32 bits; wanted f32 for it, not ${
            showScheme(own)
          }`,
        );
      }
      for (const path of found) {
        const other = ruleOf.get(path);
        if (other !== undefined) {
          throw new RangeError(
            `Cannot follow the policy: rule ${other + 1} and rule ${index + 1} both name ${
              brief(path)
            }, wanted one rule for a layer at most`,
          );
        }
        ruleOf.set(path, index);
        schemes.set(path, own);
      }
    }
  });
  return schemes;
}

/**
 * Quantizes the linear layers of a model in place, each as a policy has it.
 *
 * @param model a model with plain weights
 * @param policy the rules
 * @returns what was replaced: `commit()` frees the plain weights, `restore()` puts them back
 * @throws {RangeError} if a rule names no layer, two name the same one, or a layer cannot be quantized so
 *
 * @example Attention in 8 bits, the rest in 4, and the first block as it is
 * ```ts
 * import { loadModel, openDevice, quantizeByPolicy } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const model = await loadModel(device, "assets/base");
 * const rules = [
 *   { layers: "*.layers.0.*", scheme: "f32" },
 *   { layers: "/layers\\.[1-9]\\d*\\.self_attn/", scheme: "int8" },
 * ];
 * (await quantizeByPolicy(model, { rules, otherwise: "int4" })).commit();
 * console.log(model.weightBytes);
 * ```
 */
export async function quantizeByPolicy(
  model: LanguageModel,
  policy: QuantizationPolicy,
): Promise<ReplacedLayers> {
  const schemes = schemesOf(model, policy);
  return await quantizeLayers(model, (path) => schemes.get(path)!);
}

const isText = (value: unknown) => typeof value === "string" && value !== "";

/** Checks what a file holds. */
function checkPolicy(json: Record<string, unknown>, path: string): QuantizationPolicy {
  const wrong = (what: string) =>
    new SyntaxError(
      `Cannot read the policy "${path}": ${what}, wanted {"rules": [{"layers": "q_proj", "scheme": "int8"}], "otherwise": "int4"}`,
    );
  // A key that is not read would leave layers in another scheme than was meant, without a word.
  const checkKeys = (own: object, keys: readonly string[], where: string) => {
    const key = Object.keys(own).find((name) => !keys.includes(name));
    if (key === undefined) return;
    const near = nearest(key, keys);
    throw wrong(`${where}it has ${brief(key)}${near === null ? "" : `; did you mean "${near}"?`}`);
  };
  checkKeys(json, ["$schema", "rules", "otherwise"], "");
  const { rules, otherwise = "f32" } = json;
  if (!Array.isArray(rules)) throw wrong("it has no list of rules");
  if (!isText(otherwise)) throw wrong('its "otherwise" is no name of a scheme');
  parseScheme(otherwise as string);
  rules.forEach((rule, index) => {
    const { layers, scheme } = Object(rule);
    checkKeys(Object(rule), ["layers", "scheme"], `in rule ${index + 1} `);
    const isNamed = isText(layers) ||
      Array.isArray(layers) && layers.length > 0 && layers.every(isText);
    if (!isNamed) throw wrong(`rule ${index + 1} names no layers`);
    if (!isText(scheme)) throw wrong(`rule ${index + 1} has no scheme`);
    parseScheme(scheme);
  });
  return { rules, otherwise: otherwise as string };
}

/**
 * Reads a policy from a JSON file: `{"rules": [{"layers": "q_proj", "scheme": "int8"}], "otherwise": "int4"}`.
 *
 * @throws {SyntaxError} if it is no such file
 * @throws {RangeError} if it names a scheme that there is not
 */
export async function readPolicy(path: string): Promise<QuantizationPolicy> {
  return checkPolicy(await readJsonOf(path, "the policy", SMALL_JSON), path);
}

/** Writes a policy as `readPolicy` reads it. */
export async function savePolicy(path: string, policy: QuantizationPolicy): Promise<void> {
  const name = (scheme: string | WeightScheme) =>
    typeof scheme === "string" ? scheme : showScheme(scheme);
  const rules = policy.rules.map(({ layers, scheme }) => ({ layers, scheme: name(scheme) }));
  const json = { rules, otherwise: name(policy.otherwise ?? "f32") };
  await writeWhole(path, `${JSON.stringify(json, null, 2)}\n`);
}
