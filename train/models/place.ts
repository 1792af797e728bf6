/**
 * Weights from files to the device, plain or quantized on the way.
 *
 * @module
 */
import type { Device } from "../../core/device.ts";
import { noGrad } from "../../core/autograd.ts";
import { sameShape, showShape, sizeOf } from "../../core/shape.ts";
import { type Tensor, tensor } from "../../core/tensor.ts";
import { fourBitFromBytes } from "../../kernels/quant/four_bit.ts";
import { quantizeFourBit } from "../../kernels/quant/four_bit_quantize.ts";
import type { GgufBlockType } from "../../kernels/quant/gguf_types.ts";
import { columnChoice } from "../../kernels/pointwise/pick_columns.ts";
import { transpose } from "../../kernels/pointwise/transpose.ts";
import type { QuantizedTensor } from "../../kernels/quant/quantized_tensor.ts";
import {
  type IntegerTensor,
  type IntegerType,
  quantizeInteger,
} from "../../kernels/quant/integer.ts";
import { integerFromCodes } from "../../kernels/quant/integer_codes.ts";
import { OutlierTensor } from "../../kernels/quant/outlier_split.ts";
import type { ActivationScheme } from "../../kernels/quant/quantize_rows.ts";
import { RotatedTensor } from "../../kernels/quant/rotated_tensor.ts";
import type { FourBitType } from "../../kernels/quant/tables.ts";
import type { StoredFourBit } from "../files/bitsandbytes.ts";
import type { KeptColumns } from "../files/kept_columns.ts";
import type { StoredInteger } from "../files/stored_integer.ts";
import type { StoredRotation } from "../files/turned_inputs.ts";
import type { WeightSpec } from "./architecture.ts";
import { HalvesReport, type UploadedHalves, uploadHalves, wantsHalves } from "./halves.ts";
import { isInteger, type LoadOptions, type QuantizationScheme } from "./load_options.ts";
import {
  Brake,
  IN_FLIGHT,
  type Pieces,
  quantizePieces,
  uploadBlocks,
  uploadPieces,
} from "./pieces.ts";

/** A weight in GGUF's blocks, as a file has it. */
export interface StoredBlocks {
  readonly type: GgufBlockType;
  /** Their bytes in order; a piece is overwritten by the next one of any tensor. */
  readonly blocks: Iterable<Uint8Array<ArrayBuffer>>;
}

/** A weight in integers for inputs that are turned and rounded to bytes. */
export interface StoredRotated extends StoredInteger {
  readonly rotation: StoredRotation;
  readonly activations: ActivationScheme;
}

/** A weight that is stored in one scheme. */
type StoredUniform = StoredFourBit | StoredInteger | StoredRotated;

/** A weight with columns in 16 bits. */
export interface StoredSplit extends KeptColumns {
  readonly rest: StoredUniform;
}

/** A weight as a checkpoint has it. */
export type Stored = Pieces | StoredUniform | StoredSplit | StoredBlocks;

/** Throws unless a weight that is in 4 bits already is what the options ask for. What they leave open is as it is stored. */
function checkStored(
  { type, blockSize, shape, bytes }: StoredFourBit,
  spec: WeightSpec,
  options: LoadOptions,
): void {
  const wantedShape = spec.transposed ? spec.shape.toReversed() : spec.shape;
  if (!sameShape(shape, wantedShape)) {
    throw new RangeError(
      `it has shape ${showShape(shape)}, but config.json calls for ${showShape(wantedShape)}`,
    );
  }
  const isNested = !(bytes.scales instanceof Float32Array);
  const { quantize = type, doubleQuant = false, blockSize: wanted = blockSize } = options;
  if (quantize === type && (isNested || !doubleQuant) && wanted === blockSize) return;
  const show = (scheme: QuantizationScheme, nested: boolean, block: number) =>
    `${scheme}${nested ? " with doubleQuant" : ""} in blocks of ${block}`;
  throw new RangeError(
    `it is stored as ${show(type, isNested, blockSize)}, but ${
      show(quantize, doubleQuant, wanted)
    } was asked for; load it without quantize, or quantize the model that it was made from`,
  );
}

/** The same for integers. */
function checkCodes(
  { type, shape, groupSize }: StoredInteger,
  spec: WeightSpec,
  { quantize, blockSize }: LoadOptions,
): void {
  const wanted = spec.transposed ? spec.shape.toReversed() : spec.shape;
  if (!sameShape(shape, wanted)) {
    throw new RangeError(
      `it has shape ${showShape(shape)}, but config.json calls for ${showShape(wanted)}`,
    );
  }
  if ((quantize ?? type) !== type || (blockSize ?? groupSize) !== groupSize) {
    throw new RangeError(
      `it is stored as ${type} in groups of ${groupSize}, but ${quantize} in groups of ${
        blockSize ?? "any size"
      } was asked for; load it without quantize, or quantize the model that it was made from`,
    );
  }
}

/** A weight that was stored quantized, as it is. */
function upload(
  device: Device,
  stored: StoredUniform,
  spec: WeightSpec,
  options: LoadOptions,
): QuantizedTensor {
  if ("codes" in stored) {
    checkCodes(stored, spec, options);
    const weight = integerFromCodes(device, stored.shape, stored);
    return "rotation" in stored ? rotated(weight, stored) : weight;
  }
  checkStored(stored, spec, options);
  return fourBitFromBytes(device, stored.bytes, stored.shape, stored);
}

/** A weight for turned inputs. */
function rotated(weight: IntegerTensor, { rotation, activations }: StoredRotated): RotatedTensor {
  const { device } = weight;
  const [before, after] = [rotation.before, rotation.after].map((factors) =>
    device.keep(tensor(device, factors))
  );
  return new RotatedTensor(weight, { before, after, size: rotation.size }, activations);
}

/** The same with columns in 16 bits. */
function uploadSplit(
  device: Device,
  { rest, kept, columns }: StoredSplit,
  spec: WeightSpec,
  options: LoadOptions,
): QuantizedTensor {
  const { quantize } = options;
  if (quantize !== undefined) {
    throw new RangeError(
      `it is stored as ${rest.type} with ${columns.length} columns in 16 bits, but ${quantize} was asked for; load it without ` +
        "quantize, or quantize the model that it was made from",
    );
  }
  const weight = upload(device, rest, spec, options);
  try {
    const choice = columnChoice(device, [...columns], rest.shape[1]);
    const values = device.keep(tensor(device, kept, [rest.shape[0], columns.length]));
    return new OutlierTensor(weight, values, choice);
  } catch (error) {
    weight.dispose();
    throw error;
  }
}

/** A weight that was stored quantized, on the device: as it is, or decoded where that is wanted. */
function placeStored(
  device: Device,
  stored: StoredUniform | StoredSplit,
  spec: WeightSpec,
  options: LoadOptions,
): Tensor | QuantizedTensor {
  const weight = "rest" in stored
    ? uploadSplit(device, stored, spec, options)
    : upload(device, stored, spec, options);
  if (spec.role === "linear" && !options.dequantize) return weight;
  // An output layer can be in 4 bits where a list of one's own of what to skip forgot it. Here it is computed in 32 bits.
  try {
    const dense = noGrad(() =>
      spec.transposed ? transpose(weight.dequantize()) : weight.dequantize()
    );
    dense.requiresGrad = options.trainable === "all";
    return device.keep(dense);
  } finally {
    weight.dispose();
  }
}

/** A weight in integers. They are rounded on the host, which holds this one weight in 32 bits. */
function placeInteger(
  device: Device,
  pieces: Pieces,
  { shape, transposed }: WeightSpec,
  type: IntegerType,
  groupSize: number | undefined,
): QuantizedTensor {
  const [rows, columns] = shape;
  let numbers = new Float32Array(rows * columns);
  let at = 0;
  for (const piece of pieces) {
    numbers.set(piece, at);
    at += piece.length;
  }
  if (!transposed) return quantizeInteger(device, numbers, [rows, columns], { type, groupSize });
  const given = numbers;
  numbers = new Float32Array(given.length);
  for (let i = 0; i < given.length; i++) {
    numbers[(i % columns) * rows + Math.floor(i / columns)] = given[i];
  }
  return quantizeInteger(device, numbers, [columns, rows], { type, groupSize });
}

/** A weight in memory, in the form that the options want. */
async function place(
  device: Device,
  stored: Stored,
  spec: WeightSpec,
  options: LoadOptions,
  brake: Brake,
  report: (kind: UploadedHalves["kind"]) => void,
): Promise<Tensor | QuantizedTensor> {
  if ("codes" in stored || "bytes" in stored || "rest" in stored) {
    return placeStored(device, stored, spec, options);
  }
  if ("blocks" in stored) {
    const shape = spec.shape as [number, number];
    return await uploadBlocks(device, stored.blocks, shape, stored.type, brake);
  }
  const { quantize, blockSize } = options;
  const isQuantized = spec.role === "linear" && quantize;
  if (isQuantized && isInteger(quantize)) {
    return placeInteger(device, stored, spec, quantize, blockSize);
  }
  const fourBit = { ...options, type: quantize as FourBitType | undefined };
  if (isQuantized && !spec.transposed) {
    return await quantizePieces(device, stored, spec.shape as [number, number], fourBit, brake);
  }
  if (!isQuantized && wantsHalves(device, spec, options)) {
    const round = options.weights === "f16";
    const { weight, kind } = await uploadHalves(device, stored, spec.shape, round, brake);
    report(kind);
    return weight;
  }
  const dense = await uploadPieces(device, stored, spec.shape, brake);
  if (isQuantized) {
    const turned = device.keep(noGrad(() => transpose(dense)));
    dense.dispose();
    try {
      return await quantizeFourBit(turned, fourBit);
    } finally {
      turned.dispose();
    }
  }
  dense.requiresGrad = options.trainable === "all";
  return dense;
}

/** Weights in groups whose waiting overlaps: small ones together, a large one alone. */
function* groupsOf(
  specs: ReadonlyMap<string, WeightSpec>,
): Generator<[string, WeightSpec][]> {
  let group: [string, WeightSpec][] = [];
  let bytes = 0;
  for (const [name, spec] of specs) {
    const own = 4 * sizeOf(spec.shape);
    if (group.length > 0 && bytes + own > IN_FLIGHT) {
      yield group;
      [group, bytes] = [[], 0];
    }
    group.push([name, spec]);
    bytes += own;
  }
  if (group.length > 0) yield group;
}

/**
 * Brings a model's weights to the device, one after the other, small ones side by side.
 *
 * @param device where they shall live
 * @param specs the weights that the model wants
 * @param read gives one as the checkpoint has it
 * @param options what is quantized, and what is kept in 16 bits
 * @param report is told of weights that may be kept in 16 bits
 * @throws {RangeError} that names a weight, if it holds NaN, or is stored in another way than the options ask for
 */
export async function placeAll(
  device: Device,
  specs: ReadonlyMap<string, WeightSpec>,
  read: (name: string) => Promise<Stored>,
  options: LoadOptions,
  report: HalvesReport = new HalvesReport(),
): Promise<Map<string, Tensor | QuantizedTensor>> {
  const brake = new Brake(device);
  const weights = new Map<string, Tensor | QuantizedTensor>();
  for (const some of groupsOf(specs)) {
    const group = await Promise.all(
      some.map(async ([name, spec]) => {
        const stored = await read(name);
        try {
          const tell = (kind: UploadedHalves["kind"]) => report.add(name, kind);
          return [name, await place(device, stored, spec, options, brake, tell)] as const;
        } catch (error) {
          throw new RangeError(`Cannot load "${name}": ${(error as Error).message}`, {
            cause: error,
          });
        }
      }),
    );
    for (const [name, weight] of group) weights.set(name, weight);
  }
  // The buffers that weights were quantized from.
  device.trim();
  return weights;
}
