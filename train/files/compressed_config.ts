// deno-lint-ignore-file camelcase -- the names are those of the file
/**
 * The part of config.json that says how a checkpoint in integers is quantized, as compressed-tensors writes it: weights, and what
 * their layers read.
 *
 * @module
 */
import type { AffineScheme } from "../../kernels/quant/affine.ts";
import type { IntegerType } from "../../kernels/quant/integer.ts";
import { INTEGER_RANGES } from "../../kernels/quant/integer_range.ts";
import { brief } from "./json_text.ts";
import { BITS, isSymmetric, type StoredInteger } from "./stored_integer.ts";
import type { Json } from "./tokenizer.ts";

/** How a layer's inputs become whole numbers. */
export interface InputScheme {
  /** Which whole numbers. */
  readonly scheme: AffineScheme;
  /** Whether each token has the range that it has; otherwise all have one, whose scale is beside the weight. */
  readonly dynamic: boolean;
}

/** The layouts of a layer's weight. */
export type IntegerLayout = "pack-quantized" | "int-quantized";

/** How a layer is stored. */
export interface IntegerLayer {
  /** Its path. */
  readonly path: string;
  /** How its codes lie. */
  readonly layout: IntegerLayout;
  /** Its weight. */
  readonly stored: Pick<StoredInteger, "type" | "groupSize" | "scales" | "shape">;
  /** How its inputs are rounded, if they are. */
  readonly inputs: InputScheme | null;
}

function inputArguments({ scheme, dynamic }: InputScheme): Json {
  return {
    num_bits: scheme.bits,
    type: "int",
    symmetric: scheme.kind !== "asymmetric",
    strategy: dynamic ? "token" : "tensor",
    group_size: null,
    dynamic,
  };
}

/**
 * The `quantization_config` of a model in integers. compressed-tensors has no word for which whole numbers inputs may be: symmetric
 * ones go from −127 in nibble, and from −128 elsewhere. What is nibble's own is in `nibble`, which others skip.
 *
 * @param layers those in integers
 * @param plain paths of linear layers that are not
 */
export function integerConfig(layers: readonly IntegerLayer[], plain: readonly string[]): Json {
  const schemes = Map.groupBy(layers, ({ layout, stored, inputs }) => {
    const { type, groupSize, shape: [, columns] } = stored;
    const size = groupSize >= columns ? null : groupSize;
    return JSON.stringify([layout, BITS[type], size, isSymmetric(stored), inputs]);
  });
  const layouts = new Set(layers.map(({ layout }) => layout));
  const own: Record<string, AffineScheme> = {};
  const groups = [...schemes].map(([key, members], i) => {
    const [layout, bits, size, symmetric] = JSON.parse(key);
    const { inputs } = members[0];
    const weights = {
      num_bits: bits,
      type: "int",
      symmetric,
      strategy: size === null ? "channel" : "group",
      group_size: size,
      dynamic: false,
    };
    if (inputs) own[`group_${i}`] = inputs.scheme;
    return [`group_${i}`, {
      targets: schemes.size === 1 ? ["Linear"] : members.map(({ path }) => path),
      weights,
      input_activations: inputs && inputArguments(inputs),
      output_activations: null,
      // Where it is not said, others take the layout of layers whose inputs are rounded to be bytes.
      ...(layouts.size > 1 || inputs && layout === "pack-quantized") && { format: layout },
    }];
  });
  return {
    quant_method: "compressed-tensors",
    format: layouts.size > 1 ? "mixed-precision" : [...layouts][0],
    quantization_status: "compressed",
    config_groups: Object.fromEntries(groups),
    ignore: [...plain, "lm_head"],
    kv_cache_scheme: null,
    ...Object.keys(own).length > 0 && { nibble: { inputs: own } },
  };
}

/** What config.json names in the place of a method that others know, and which version of it this is. */
const OWN = { quant_method: "nibble", version: 1 } as const;

/**
 * The `quantization_config` of a model that has what neither compressed-tensors nor bitsandbytes has a place for: columns in 16 bits,
 * zeros between whole numbers, or weights as both have them. Other programs refuse the method, where they would read something else
 * than was meant. Weights in 4-bit floats say themselves how they are stored.
 *
 * @param layers those in integers, of split weights too
 * @param plain paths of linear layers that are not quantized
 */
export function ownConfig(layers: readonly IntegerLayer[], plain: readonly string[]): Json {
  const { format: _, ...config } = integerConfig(layers, plain);
  return { ...config, ...OWN };
}

/** A group of layers in a config.json. */
interface Group {
  readonly targets: readonly unknown[];
  readonly type: IntegerType;
  readonly inputs: InputScheme | null;
}

/** Whether one of compressed-tensors' names means a layer: its path, a pattern behind "re:", or its class. */
function isNamed(path: string, targets: readonly unknown[]): boolean {
  return targets.some((target) => {
    if (target === path || target === "Linear") return true;
    if (typeof target !== "string" || !target.startsWith("re:")) return false;
    try {
      return new RegExp(`^(?:${target.slice(3)})`).test(path);
    } catch {
      return false;
    }
  });
}

/** How the layers of a checkpoint in integers are stored, as its config.json says. */
export class IntegerConfig {
  /** Whether the format is nibble's own, in which other weights may be in 4-bit floats. */
  readonly isOwn: boolean;
  /** Weights that share a scale, where they are not a row's. */
  readonly groupSizes: readonly number[];
  readonly #groups: readonly Group[];
  readonly #ignored: readonly unknown[];

  /** Use `readIntegerConfig`. */
  constructor(
    isOwn: boolean,
    groups: readonly Group[],
    groupSizes: readonly number[],
    ignored: unknown,
  ) {
    this.isOwn = isOwn;
    this.#groups = groups;
    this.groupSizes = groupSizes;
    this.#ignored = Array.isArray(ignored) ? ignored : [];
  }

  #groupOf(path: string): Group | undefined {
    if (isNamed(path, this.#ignored)) return undefined;
    return this.#groups.find(({ targets }) => isNamed(path, targets));
  }

  /** The type of a layer's weight, if the file says it. */
  typeOf(path: string): IntegerType | undefined {
    return this.#groupOf(path)?.type;
  }

  /** How a layer's inputs are rounded; null if they are not. */
  inputsOf(path: string): InputScheme | null {
    return this.#groupOf(path)?.inputs ?? null;
  }
}

const LAYOUTS: readonly unknown[] = ["pack-quantized", "int-quantized", "mixed-precision"];
const KINDS: readonly unknown[] = INTEGER_RANGES;
const LEVELS: readonly unknown[] = [undefined, "signed", "restricted", "unsigned"];

/** What a group says of inputs, in nibble's own words where those are there. Throws where nibble has no such rounding. */
function inputsIn(found: unknown, own: unknown, fault: (what: string) => TypeError) {
  if (found === null || found === undefined) return null;
  const { num_bits: bits = 8, type = "int", symmetric = true } = Object(found);
  const { strategy, dynamic = false } = Object(found);
  const fitting = strategy === undefined || strategy === null ||
    strategy === (dynamic ? "token" : "tensor");
  if (type !== "int" || !Number.isInteger(bits) || bits < 2 || bits > 8 || !fitting) {
    throw fault(
      `has input_activations ${brief(found)}, wanted 2 to 8 bits, of each token or of all`,
    );
  }
  const { kind, levels } = Object(own);
  if (own !== undefined) {
    if (!KINDS.includes(kind) || !LEVELS.includes(levels) || Object(own).bits !== bits) {
      throw fault(`has ${brief(own)} for its inputs, wanted bits, kind and levels`);
    }
    return { scheme: { bits, kind, ...levels && { levels } }, dynamic: dynamic === true };
  }
  // Engines that multiply bytes give each token the scale absmax / 127, whatever compressed-tensors itself has.
  const scheme: AffineScheme = symmetric === false
    ? { bits, kind: "asymmetric", levels: "signed" }
    : { bits, kind: dynamic ? "symmetric" : "symmetric-full" };
  return { scheme, dynamic: dynamic === true };
}

/**
 * What a config.json says of a checkpoint in integers, or in nibble's own format; null if it says nothing of such.
 *
 * @param json the parsed file
 * @param path its name, for errors
 * @throws {TypeError} if it is of another version of that, or weights or inputs are quantized in a way that nibble has not
 */
export function readIntegerConfig(json: Json, path: string): IntegerConfig | null {
  const config = Object(json.quantization_config);
  const isOwn = config.quant_method === OWN.quant_method;
  if (isOwn && config.version !== OWN.version) {
    throw new TypeError(
      `Cannot load the model of "${path}": it is in version ${
        brief(config.version)
      } of nibble's own format, wanted ${OWN.version}; use the nibble that wrote it, or the model that it was made from`,
    );
  }
  const isKnown = config.quant_method === "compressed-tensors" && LAYOUTS.includes(config.format);
  if (!isOwn && !isKnown) return null;
  const own = Object(Object(config.nibble).inputs);
  const sizes = new Set<number>();
  const groups = Object.entries(Object(config.config_groups)).map(([name, group]): Group => {
    const fault = (what: string) =>
      new TypeError(
        `Cannot load the model of "${path}": ${
          brief(name)
        } ${what}; use the model that it was made from`,
      );
    const { targets, weights, input_activations, output_activations, format } = Object(group);
    const { num_bits: bits = 8, type = "int", group_size: size } = Object(weights);
    if (format !== undefined && format !== null && !LAYOUTS.includes(format)) {
      throw fault(`has the format ${brief(format)}, wanted pack-quantized or int-quantized`);
    }
    const known = (Object.keys(BITS) as IntegerType[]).find((own) => BITS[own] === bits);
    if (type !== "int" || !known) {
      throw fault(`has weights ${brief(weights)}, wanted whole numbers of 8, 4, 3 or 2 bits`);
    }
    if (output_activations !== null && output_activations !== undefined) {
      throw fault("quantizes what layers give, wanted weights and inputs alone");
    }
    if (Number.isSafeInteger(size) && size > 0) sizes.add(size);
    return {
      targets: Array.isArray(targets) ? targets : [],
      type: known,
      inputs: inputsIn(input_activations, Object.hasOwn(own, name) ? own[name] : undefined, fault),
    };
  });
  return new IntegerConfig(isOwn, groups, [...sizes], config.ignore);
}
