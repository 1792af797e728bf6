/**
 * Whether a checkpoint has the weights that a model wants, all of them, and no others.
 *
 * @module
 */
import { sameShape, showShape } from "../../core/shape.ts";
import { isFourBit } from "../files/bitsandbytes.ts";
import { keptWeightOf } from "../files/kept_columns.ts";
import type { TensorSource } from "../files/safetensors.ts";
import { integerWeightOf, isBytes, isInteger, isPacked } from "../files/stored_integer.ts";
import type { Blueprint } from "./architecture.ts";

/** So many names of a kind are listed; where thousands are wrong, the first say enough. */
const MOST_LISTED = 10;

function list(title: string, entries: readonly string[]): string[] {
  if (entries.length === 0) return [];
  const rest = entries.length - MOST_LISTED;
  const shown = entries.slice(0, MOST_LISTED).join(", ");
  return [`${title} ${shown}${rest > 0 ? ` and ${rest} more` : ""}`];
}

/** The output layer's weight: files have it even where it is the embedding. */
const HEAD = "lm_head.weight";

/**
 * Finds a model's weights in a checkpoint.
 *
 * @param source the checkpoint
 * @param blueprint the weights that the model wants
 * @param path the checkpoint's name, for errors
 * @returns the name of each wanted weight in the checkpoint: a model that was saved without its output layer has shorter ones
 * @throws {RangeError} with a list, if weights are missing, left over, or of the wrong shape
 */
export function findWeights(
  source: TensorSource,
  { config, weights, prefix, harmless }: Blueprint,
  path: string,
): Map<string, string> {
  const found = new Map<string, string>();
  const [missing, misshapen]: [string[], string[]] = [[], []];
  for (const [name, { shape }] of weights) {
    const short = name.startsWith(prefix) ? name.slice(prefix.length) : name;
    const own = source.entries.has(name) || isInteger(source, name) ? name : short;
    const entry = source.entries.get(own);
    // Shapes of packed integers are checked when they are read.
    if (!entry && isPacked(source, own)) {
      found.set(name, own);
      continue;
    }
    if (!entry) {
      missing.push(`"${name}" ${showShape(shape)}`);
      continue;
    }
    found.set(name, own);
    // A weight in 4 bits is a line of bytes here; its shape is checked when its state is read, as that of bytes is.
    const isLater = isFourBit(source, own) || isBytes(source, own);
    if (sameShape(entry.shape, shape) || isLater) continue;
    misshapen.push(`"${own}" ${showShape(entry.shape)}, wanted ${showShape(shape)}`);
  }
  const known = new Set(found.values());
  const left: string[] = [];
  for (const [own, { shape }] of source.entries) {
    if (known.has(own) || harmless.test(own)) continue;
    if (own === HEAD && config.tiedEmbeddings) continue;
    if (isPartOfFourBit(source, own, known)) continue;
    const weight = integerWeightOf(source, own) ?? keptWeightOf(source, own);
    if (known.has(weight ?? "")) continue;
    left.push(`"${own}" ${showShape(shape)}`);
  }
  const faults = [
    ...list("missing", missing),
    ...list("of another shape", misshapen),
    ...list("left over", left),
  ];
  if (faults.length === 0) return found;
  throw new RangeError(
    `Cannot load the model in "${path}": its weights are not those that its configuration calls for: ${
      faults.join("; ")
    }; is the configuration that of another model?`,
  );
}

/** Whether a tensor is one of those that bitsandbytes keeps beside a weight in 4 bits: `….weight.absmax`. */
function isPartOfFourBit(source: TensorSource, own: string, known: ReadonlySet<string>): boolean {
  const at = own.indexOf(".weight.");
  if (at < 0) return false;
  const weight = own.slice(0, at + ".weight".length);
  return known.has(weight) && isFourBit(source, weight);
}
