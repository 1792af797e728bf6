/** What a model folder cannot hold together. */
import { parseScheme } from "../train/quant/policy.ts";
import type { WeightScheme } from "../train/quant/weight_only.ts";

function formatOf(scheme: WeightScheme): string {
  const { kind } = scheme.kind === "split" ? scheme.rest : scheme;
  return kind === "nf4" || kind === "fp4" ? "bitsandbytes" : "integers";
}

/**
 * The names of two schemes that no folder can hold both, as config.json names one format: `"nf4-dq" and "int4"`. Null if there are
 * none.
 */
export function mixOf(schemes: readonly string[]): string | null {
  const found = new Map<string, string>();
  for (const name of schemes) {
    const scheme = parseScheme(name);
    if (scheme) found.set(formatOf(scheme), name);
  }
  return found.size < 2 ? null : [...found.values()].join(" and ");
}
