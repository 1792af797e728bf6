/**
 * Choosing a scheme for each layer so that the sum of the costs is least within a size: the multiple-choice knapsack problem.
 *
 * @module
 */
import type { QuantizationPolicy } from "./policy.ts";

/** A scheme that a layer, or a group of layers, could have. */
export interface SchemeChoice {
  /** By name, as a policy has it: "int4-g32". */
  readonly scheme: string;
  /** Bytes of the layers' weights in it. */
  readonly bytes: number;
  /** What it costs: a divergence, or a change of the loss. */
  readonly cost: number;
}

/** Layers that get one scheme together. */
export interface ChoiceUnit {
  /** Paths of the layers. */
  readonly layers: readonly string[];
  /** What they could have. */
  readonly choices: readonly SchemeChoice[];
}

/** How `chooseSchemes` goes about it. */
export interface ChooseOptions {
  /** Bytes that the weights of all units may take together. */
  readonly bytes: number;
  /**
   * "exact", the default: the least sum that there is, by dynamic programming over the bytes. "greedy": from the smallest choices on,
   * always the step that gains the most for each byte; fast, and seldom much worse.
   */
  readonly method?: "exact" | "greedy";
}

/** What was chosen. */
export interface Chosen {
  /** For each unit, which of its choices. */
  readonly choices: readonly SchemeChoice[];
  /** Bytes of them. */
  readonly bytes: number;
  /** The sum of their costs. */
  readonly cost: number;
  /** Bytes that sizes were rounded up to by "exact": 1, or more where there are too many sums to look at all. */
  readonly resolution: number;
  /** The choices as rules. */
  readonly policy: QuantizationPolicy;
}

/** Sizes that dynamic programming looks at, at most. */
const MOST_SIZES = 1 << 18;

function gcd(a: number, b: number): number {
  while (b > 0) [a, b] = [b, a % b];
  return a;
}

/** A unit's choices from the smallest on, without those that are as large as another or larger, and no better. */
function useful({ choices }: ChoiceUnit): SchemeChoice[] {
  const sorted = [...choices].sort((a, b) => a.bytes - b.bytes || a.cost - b.cost);
  const kept: SchemeChoice[] = [];
  for (const own of sorted) if (kept.every(({ cost }) => own.cost < cost)) kept.push(own);
  return kept;
}

/** Indexes of choices with the least sum of costs; `spare` bytes beyond the smallest choices. */
function exactly(
  units: readonly (readonly SchemeChoice[])[],
  spare: number,
): { picked: number[]; resolution: number } {
  const extras = units.map((choices) => choices.map(({ bytes }) => bytes - choices[0].bytes));
  const common = extras.flat().reduce(gcd, 0) || 1;
  const resolution = Math.max(common, Math.ceil(spare / MOST_SIZES));
  const steps = extras.map((own) => own.map((extra) => Math.ceil(extra / resolution)));
  // No more than all the largest choices take.
  const all = steps.reduce((sum, own) => sum + Math.max(...own), 0);
  const size = Math.min(Math.floor(spare / resolution), all);
  let best = new Float64Array(size + 1);
  const taken = units.map((choices, u) => {
    const next = new Float64Array(size + 1).fill(Infinity);
    const own = new Uint8Array(size + 1);
    choices.forEach(({ cost }, i) => {
      for (let at = steps[u][i]; at <= size; at++) {
        const sum = best[at - steps[u][i]] + cost;
        if (sum < next[at]) [next[at], own[at]] = [sum, i];
      }
    });
    best = next;
    return own;
  });
  const picked: number[] = [];
  let at = size;
  for (let u = units.length - 1; u >= 0; u--) {
    picked[u] = taken[u][at];
    at -= steps[u][picked[u]];
  }
  return { picked, resolution };
}

/** The same, by steps that gain the most for each byte. */
function greedily(units: readonly (readonly SchemeChoice[])[], spare: number): number[] {
  const picked = units.map(() => 0);
  while (true) {
    let best = { gain: 0, unit: -1, choice: 0, bytes: 0 };
    units.forEach((choices, unit) => {
      const now = choices[picked[unit]];
      for (let choice = picked[unit] + 1; choice < choices.length; choice++) {
        const bytes = choices[choice].bytes - now.bytes;
        const gain = (now.cost - choices[choice].cost) / bytes;
        if (bytes <= spare && gain > best.gain) best = { gain, unit, choice, bytes };
      }
    });
    if (best.unit < 0) return picked;
    picked[best.unit] = best.choice;
    spare -= best.bytes;
  }
}

/** Choices as a policy: a rule for each scheme. */
function policyOf(
  units: readonly ChoiceUnit[],
  chosen: readonly SchemeChoice[],
): QuantizationPolicy {
  const layers = new Map<string, string[]>();
  units.forEach((unit, i) => {
    const { scheme } = chosen[i];
    if (!layers.has(scheme)) layers.set(scheme, []);
    layers.get(scheme)!.push(...unit.layers);
  });
  return { rules: [...layers].map(([scheme, own]) => ({ layers: own, scheme })) };
}

/**
 * One scheme for each unit, so that all together fit a size at the least cost.
 *
 * @param units layers, and what each scheme takes and costs there, such as `measureSensitivity` finds
 * @param options the size, and how to look
 * @throws {RangeError} if even the smallest schemes do not fit, or a number is NaN
 *
 * @example
 * ```ts
 * import { chooseSchemes } from "@nibble/nibble";
 *
 * const choices = (factor: number) => [
 *   { scheme: "int4", bytes: 50, cost: 0.02 * factor },
 *   { scheme: "int8", bytes: 100, cost: 0.001 * factor },
 * ];
 * const units = [
 *   { layers: ["q_proj"], choices: choices(1) },
 *   { layers: ["down_proj"], choices: choices(9) },
 * ];
 * const { policy, bytes } = chooseSchemes(units, { bytes: 160 });
 * console.log(bytes, policy.rules); // 150: q_proj in int4, down_proj in int8
 * ```
 */
export function chooseSchemes(
  units: readonly ChoiceUnit[],
  { bytes, method = "exact" }: ChooseOptions,
): Chosen {
  for (const { layers, choices } of units) {
    const wrong = choices.find((own) => !Number.isFinite(own.cost) || !(own.bytes >= 0));
    if (choices.length > 0 && !wrong) continue;
    const found = wrong ? `${wrong.scheme} at ${wrong.bytes} bytes, cost ${wrong.cost}` : "none";
    throw new RangeError(
      `Cannot choose a scheme for ${
        layers.join(", ")
      }: found ${found}, wanted choices with finite sizes and costs`,
    );
  }
  const sorted = units.map(useful);
  const least = sorted.reduce((sum, [smallest]) => sum + smallest.bytes, 0);
  if (!(bytes >= least)) {
    throw new RangeError(
      `Cannot fit the layers into ${bytes} bytes: the smallest of the schemes take ${least}; ` +
        "raise the budget, or allow smaller schemes",
    );
  }
  const { picked, resolution } = method === "exact"
    ? exactly(sorted, bytes - least)
    : { picked: greedily(sorted, bytes - least), resolution: 1 };
  const choices = sorted.map((own, i) => own[picked[i]]);
  return {
    choices,
    bytes: choices.reduce((sum, own) => sum + own.bytes, 0),
    cost: choices.reduce((sum, own) => sum + own.cost, 0),
    resolution,
    policy: policyOf(units, choices),
  };
}
