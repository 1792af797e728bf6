/**
 * Integer weights in checkpoints as plain bytes, and what rounds the inputs of their layers: the layout that compressed-tensors calls
 * "int-quantized", which engines that multiply in whole numbers read (W8A8). transformers 5.23 with compressed-tensors 0.20 gives the same logits as nibble
 * with static inputs, to 3e-7 up to the first number that the two round to different sides. For a layer `up_proj` there are
 *
 * - `up_proj.weight`, I8 [rows, columns]: the whole numbers;
 * - `up_proj.weight_scale`, [rows, groups]: F32 here, also read in F16 and BF16;
 * - `up_proj.weight_zero_point`, I8 [rows, groups], only where a zero is not in the middle;
 * - `up_proj.input_scale`, [1], and `up_proj.input_zero_point`, I8 [1], where one range for all inputs was found by calibration; the
 *   zero point only where it is not in the middle. Layers whose weights are packed have those two as well.
 *
 * How inputs become whole numbers is in config.json: see `integerConfig`.
 *
 * @module
 */
import { sameShape, showShape } from "../../core/shape.ts";
import { type AffineParameters, type AffineScheme, levelsOf } from "../../kernels/quant/affine.ts";
import type { IntegerType } from "../../kernels/quant/integer.ts";
import type { TensorData, TensorSource } from "./safetensors.ts";
import {
  BITS,
  inputNames,
  integerFault,
  isSymmetric,
  readScales,
  type StoredInteger,
  storedScales,
  wholeZeros,
} from "./stored_integer.ts";

/**
 * The tensors that stand for an integer weight in a checkpoint, with a byte for each code.
 *
 * @param name the weight's name, such as `model.layers.0.mlp.up_proj.weight`
 * @param stored codes, scales and zeros
 * @throws {TypeError} if a zero is not a whole number
 */
export function storeBytes(name: string, stored: StoredInteger): Map<string, TensorData> {
  const { type, codes, shape } = stored;
  const middle = 2 ** (BITS[type] - 1);
  const tensors = new Map<string, TensorData>();
  tensors.set(name, { dtype: "I8", shape, data: Int8Array.from(codes, (code) => code - middle) });
  const scales = storedScales(stored);
  tensors.set(`${name}_scale`, scales);
  if (isSymmetric(stored)) return tensors;
  const data = Int8Array.from(wholeZeros(name, stored), (zero) => zero - middle);
  tensors.set(`${name}_zero_point`, { dtype: "I8", shape: scales.shape, data });
  return tensors;
}

async function signedBytes(source: TensorSource, name: string): Promise<Int8Array> {
  const bytes = await source.read(name);
  return new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length);
}

/**
 * Reads a weight that is stored as bytes.
 *
 * @param source the checkpoint
 * @param name the weight's name
 * @param groupSizes those that config.json names
 * @param type what config.json says that the bytes are: of 4 bits too each has a byte
 * @throws {RangeError} if its tensors do not fit each other or the type
 */
export async function readBytes(
  source: TensorSource,
  name: string,
  groupSizes: readonly number[],
  type: IntegerType = "int8",
): Promise<StoredInteger> {
  const { shape: [rows, columns, ...more] } = source.entries.get(name)!;
  if (!(rows > 0 && columns > 0) || more.length > 0) {
    throw integerFault(name, "it is no matrix");
  }
  const { groups, groupSize, scales } = await readScales(
    source,
    name,
    [rows, columns],
    groupSizes,
    type,
  );
  const middle = 2 ** (BITS[type] - 1);
  const shifted = async (own: string) => {
    const bytes = await signedBytes(source, own);
    const wrong = bytes.find((byte) => byte < -middle || byte >= middle);
    if (wrong === undefined) return Uint8Array.from(bytes, (byte) => byte + middle);
    throw integerFault(name, `"${own}" has ${wrong}, but config.json says ${BITS[type]} bits`);
  };
  const zero = source.entries.get(`${name}_zero_point`);
  if (zero) {
    if (zero.dtype !== "I8" || !sameShape(zero.shape, [rows, groups])) {
      throw integerFault(
        name,
        `its zero points are ${zero.dtype} ${showShape(zero.shape)}, wanted I8 [${rows},${groups}]`,
      );
    }
    (await shifted(`${name}_zero_point`)).forEach((value, i) => scales[2 * i + 1] = value);
  }
  return { type, shape: [rows, columns], groupSize, codes: await shifted(name), scales };
}

/** The whole number in the middle of a scheme's: files count zero points from there. */
function middleOf(scheme: AffineScheme): number {
  return levelsOf(scheme).least === 0 ? 2 ** (scheme.bits - 1) : 0;
}

/**
 * The tensors that stand for the fixed range of a layer's inputs.
 *
 * @param name the name of the layer's weight
 * @param scheme the whole numbers
 * @param fixed the scale and the zero point
 */
export function storeInputs(
  name: string,
  scheme: AffineScheme,
  { scale, zero }: AffineParameters,
): Map<string, TensorData> {
  const names = inputNames(name);
  const tensors = new Map<string, TensorData>();
  tensors.set(names.scale, { dtype: "F32", shape: [1], data: Float32Array.of(scale) });
  if (scheme.kind !== "asymmetric") return tensors;
  const data = Int8Array.of(zero - middleOf(scheme));
  return tensors.set(names.zero, { dtype: "I8", shape: [1], data });
}

/**
 * Reads what `storeInputs` stored.
 *
 * @throws {RangeError} if there is no finite scale, or no zero point of the scheme
 */
export async function readInputs(
  source: TensorSource,
  name: string,
  scheme: AffineScheme,
): Promise<AffineParameters> {
  const names = inputNames(name);
  const one = (shape: readonly number[] | undefined) =>
    shape !== undefined && shape.length < 3 && shape.every((size) => size === 1);
  const fault = (own: string, wanted: string) => {
    const entry = source.entries.get(own);
    const found = entry ? `${entry.dtype} ${showShape(entry.shape)}` : "missing";
    return integerFault(name, `"${own}" is ${found}, wanted ${wanted}`);
  };
  if (!one(source.entries.get(names.scale)?.shape)) throw fault(names.scale, "one number");
  const [scale] = await source.readFloats(names.scale);
  if (!(scale >= 0 && Number.isFinite(scale))) {
    throw integerFault(name, `"${names.scale}" is ${scale}, wanted a finite number, 0 or above`);
  }
  const middle = middleOf(scheme);
  const entry = source.entries.get(names.zero);
  if (!entry) return { scale, zero: middle };
  if (entry.dtype !== "I8" || !one(entry.shape)) throw fault(names.zero, "I8 [1]");
  const zero = (await signedBytes(source, names.zero))[0] + middle;
  const { least, most } = levelsOf(scheme);
  if (zero >= least && zero <= most) return { scale, zero };
  throw integerFault(
    name,
    `"${names.zero}" is ${zero - middle}, which is none of the whole numbers`,
  );
}
