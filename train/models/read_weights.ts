/**
 * Quantized weights out of checkpoints, and what their layers do to inputs.
 *
 * @module
 */
import { IntegerTensor } from "../../kernels/quant/integer.ts";
import { isFourBit, readFourBit } from "../files/bitsandbytes.ts";
import type { IntegerConfig } from "../files/compressed_config.ts";
import { readBytes, readInputs } from "../files/int_quantized.ts";
import { readKept } from "../files/kept_columns.ts";
import { readInteger } from "../files/pack_quantized.ts";
import type { TensorSource } from "../files/safetensors.ts";
import { inputNames, isBytes, isInteger, type StoredInteger } from "../files/stored_integer.ts";
import { readRotation } from "../files/turned_inputs.ts";
import { bytesOf, type InputRounding, roundingLayer } from "../nn/input_rounding.ts";
import { QuantizedLinear } from "../nn/linear.ts";
import type { LanguageModel } from "./language_model.ts";
import { piecesOf } from "./pieces.ts";
import type { Stored, StoredRotated } from "./place.ts";

/** Reads a weight as the checkpoint has it. */
export async function readWeight(
  source: TensorSource,
  name: string,
  path: string,
  integers: IntegerConfig | null,
): Promise<Stored> {
  const isWhole = integers !== null && isInteger(source, name);
  if (!isWhole && !isFourBit(source, name)) return await piecesOf(source, name);
  const readWhole = isBytes(source, name) ? readBytes : readInteger;
  const whole = isWhole
    ? await readWhole(source, name, integers.groupSizes, integers.typeOf(path))
    : await readFourBit(source, name);
  const rest = "codes" in whole ? await readTurned(source, name, path, whole, integers!) : whole;
  const kept = await readKept(source, name, rest.shape[0]);
  return kept ? { rest, ...kept } : rest;
}

/** Reads how a weight's inputs are turned, if they are. */
async function readTurned(
  source: TensorSource,
  name: string,
  path: string,
  weight: StoredInteger,
  integers: IntegerConfig,
): Promise<StoredInteger | StoredRotated> {
  const rotation = await readRotation(source, name, weight.shape[1]);
  if (!rotation) return weight;
  const inputs = integers.inputsOf(path);
  const activations = inputs && bytesOf({
    scheme: inputs.scheme,
    fixed: inputs.dynamic ? null : await readInputs(source, name, inputs.scheme),
  });
  if (activations) return { ...weight, rotation, activations };
  throw new RangeError(
    `Cannot read the integer weight "${name}": its inputs are turned, but config.json does not say that they are rounded to 8 bits`,
  );
}

/** What there is to say of layers whose inputs a checkpoint rounds: how many there are, and whether they do so here. */
function roundingNotes(roundings: ReadonlyMap<string, InputRounding>, decoded: number): string[] {
  const kinds = new Map<string, number>();
  for (const { scheme: { bits }, fixed } of roundings.values()) {
    const kind = `${bits} bits by ${fixed ? "fixed ranges" : "each token's own range"}`;
    kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
  }
  const done = decoded > 0 ? "not here, as weights are decoded" : "kept";
  return [...kinds].map(([kind, count]) =>
    `inputs of ${count} layer${count > 1 ? "s" : ""} rounded to ${kind}: ${done}`
  );
}

/**
 * Reads how a checkpoint rounds inputs, and puts layers that do so in the place of those that do not.
 *
 * @returns notes on it
 */
export async function roundInputs(
  model: LanguageModel,
  source: TensorSource,
  names: ReadonlyMap<string, string>,
  config: IntegerConfig,
): Promise<string[]> {
  const roundings = new Map<string, InputRounding>();
  let decoded = 0;
  for (const [path, layer] of [...model.linearLayers()]) {
    const inputs = config.inputsOf(path);
    const name = names.get(`${path}.weight`)!;
    // Ranges of turned inputs belong to the weight, and fit no other inputs.
    const isTurned = source.entries.has(inputNames(name).block);
    if (!inputs || !isInteger(source, name) || isTurned) continue;
    const { scheme, dynamic } = inputs;
    const fixed = dynamic ? null : await readInputs(source, name, scheme);
    roundings.set(path, { scheme, fixed });
    if (layer instanceof QuantizedLinear && layer.weight instanceof IntegerTensor) {
      model.replaceLinear(path, roundingLayer(layer.weight, layer.bias, { scheme, fixed }));
    } else decoded++;
  }
  model.inputRoundings = roundings;
  return roundingNotes(roundings, decoded);
}
