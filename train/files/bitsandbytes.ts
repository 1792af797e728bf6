/**
 * 4-bit weights in checkpoints, as bitsandbytes' `Linear4bit` stores them and transformers' `save_pretrained` writes them
 * (github.com/bitsandbytes-foundation/bitsandbytes, `functional.py`, QuantState). The format is that of its CPU and CUDA
 * versions alike.
 *
 * @module
 */
import { sameShape, showShape } from "../../core/shape.ts";
import { NESTED_BLOCK } from "../../kernels/quant/double_quant.ts";
import type { FourBitBytes } from "../../kernels/quant/four_bit.ts";
import { type FourBitType, tableOf } from "../../kernels/quant/tables.ts";
import { brief, checkDepth } from "./json_text.ts";
import type { TensorData, TensorSource } from "./safetensors.ts";

/** A 4-bit weight as a checkpoint holds it. */
export interface StoredFourBit {
  /** Codes and scales. */
  readonly bytes: FourBitBytes;
  /** The weight's own shape, [rows, columns]. */
  readonly shape: readonly [rows: number, columns: number];
  /** "nf4" or "fp4". */
  readonly type: FourBitType;
  /** Weights that share a scale. */
  readonly blockSize: number;
  /** What Python decodes it to, in PyTorch's words: "float32", "float16" or "bfloat16". */
  readonly dtype: string;
}

/** In a checkpoint, a weight is in 4 bits if there is a tensor of its name, this, and the type. */
const STATE = ".quant_state.bitsandbytes__";

const TYPES: readonly string[] = ["nf4", "fp4"];

/** A tensor's elements may be of another type (FSDP wants bfloat16), but the bytes are the same. */
const STORAGE = new Map([["U8", 1], ["I8", 1], ["F16", 2], ["BF16", 2], ["F32", 4], ["F64", 8]]);

/**
 * The value table as it is stored: bitsandbytes writes FP4's second zero as a `-0` of Python's integers, which has no sign.
 */
function storedTable(type: FourBitType): Float32Array {
  return tableOf(type).map((value) => value === 0 ? 0 : value);
}

/** A number as Python's `json.dumps` writes a float. */
function pythonFloat(value: number): string {
  const [digits, exponent] = value.toExponential().split("e");
  const power = Number(exponent);
  if (power >= -4 && power < 16) return Number.isInteger(value) ? `${value}.0` : String(value);
  return `${digits}e${power < 0 ? "-" : "+"}${String(Math.abs(power)).padStart(2, "0")}`;
}

/** The state as Python writes it, down to the blanks, so that files can be compared byte for byte. */
function stateText({ bytes, shape, type, blockSize, dtype }: StoredFourBit): string {
  const fields = [
    `"quant_type": "${type}"`,
    `"blocksize": ${blockSize}`,
    `"dtype": "${dtype}"`,
    `"shape": [${shape.join(", ")}]`,
  ];
  if (!(bytes.scales instanceof Float32Array)) {
    fields.push(
      `"nested_blocksize": ${NESTED_BLOCK}`,
      `"nested_dtype": "float32"`,
      `"nested_offset": ${pythonFloat(bytes.scales.offset)}`,
    );
  }
  return `{${fields.join(", ")}}`;
}

/**
 * The tensors that stand for a 4-bit weight in a checkpoint, the same as bitsandbytes' byte for byte.
 *
 * @param name the weight's name, such as `model.layers.0.mlp.up_proj.weight`
 * @param stored codes, scales, and how they are meant
 *
 * @example
 * ```ts
 * import { openDevice, quantizeFourBit, storeFourBit, zeros } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const nf4 = await quantizeFourBit(zeros(device, [8, 64]));
 * const { shape, type, blockSize } = nf4;
 * const stored = { bytes: await nf4.toBytes(), shape, type, blockSize, dtype: "float32" };
 * console.log([...storeFourBit("up.weight", stored).keys()]); // up.weight, up.weight.absmax, …
 * ```
 */
export function storeFourBit(name: string, stored: StoredFourBit): Map<string, TensorData> {
  const { packed, scales } = stored.bytes;
  const u8 = (data: Uint8Array, shape = [data.length]) => ({ dtype: "U8", shape, data });
  const f32 = (data: Float32Array) => ({ dtype: "F32", shape: [data.length], data });
  const tensors = new Map<string, TensorData>([[name, u8(packed, [packed.length, 1])]]);
  if (scales instanceof Float32Array) tensors.set(`${name}.absmax`, f32(scales));
  else {
    tensors.set(`${name}.absmax`, u8(scales.codes));
    tensors.set(`${name}.nested_absmax`, f32(scales.nestedAbsmax));
    tensors.set(`${name}.nested_quant_map`, f32(scales.map));
  }
  tensors.set(`${name}.quant_map`, f32(storedTable(stored.type)));
  return tensors.set(name + STATE + stored.type, u8(new TextEncoder().encode(stateText(stored))));
}

/**
 * Whether a checkpoint holds a weight in 4 bits.
 *
 * @param source the checkpoint
 * @param name the weight's name
 */
export function isFourBit(source: TensorSource, name: string): boolean {
  return statesOf(source, name).length > 0;
}

function statesOf(source: TensorSource, name: string): string[] {
  const known = TYPES.map((type) => name + STATE + type).filter((own) => source.entries.has(own));
  if (known.length > 0) return known;
  // Another type: found only so that the error can name it.
  return source.entries.get(name)?.dtype === "U8"
    ? [...source.entries.keys()].filter((own) => own.startsWith(name + STATE))
    : [];
}

/** Takes a weight's tensors out of a checkpoint, with errors that name tensor, finding and wish. */
class Reader {
  readonly #source: TensorSource;
  readonly #name: string;

  constructor(source: TensorSource, name: string) {
    this.#source = source;
    this.#name = name;
  }

  fault(problem: string): RangeError {
    return new RangeError(
      `Cannot read the 4-bit weight "${this.#name}": ${problem}; is the checkpoint complete?`,
    );
  }

  async take(
    suffix: string,
    dtype: "U8" | "F32",
    length: number,
  ): Promise<Uint8Array<ArrayBuffer>> {
    const name = this.#name + suffix;
    const entry = this.#source.entries.get(name);
    const wanted = `wanted ${dtype} ${showShape([length])}`;
    if (!entry) throw this.fault(`found no tensor "${name}", ${wanted}`);
    if (entry.dtype !== dtype || !sameShape(entry.shape, [length])) {
      throw this.fault(
        `found "${name}" with ${entry.dtype} ${showShape(entry.shape)}, ${wanted}`,
      );
    }
    return await this.#source.read(name);
  }

  async floats(suffix: string, length: number): Promise<Float32Array<ArrayBuffer>> {
    const numbers = new Float32Array((await this.take(suffix, "F32", length)).buffer);
    const bad = numbers.findIndex((value) => !Number.isFinite(value));
    if (bad < 0) return numbers;
    throw this.fault(
      `found ${numbers[bad]} at ${bad} of "${this.#name + suffix}", wanted finite numbers`,
    );
  }

  /** The codes, whatever the storage type. */
  async codes(size: number): Promise<Uint8Array> {
    const entry = this.#source.entries.get(this.#name);
    const length = Math.ceil(size / 2);
    const item = STORAGE.get(entry?.dtype ?? "") ?? 1;
    const wanted = `wanted U8 ${showShape([length, 1])}`;
    if (!entry) throw this.fault(`found no tensor "${this.#name}", ${wanted}`);
    if (
      !STORAGE.has(entry.dtype) || entry.end - entry.begin !== Math.ceil(length / item) * item
    ) {
      throw this.fault(
        `found "${this.#name}" with ${entry.dtype} ${showShape(entry.shape)}, ${wanted}`,
      );
    }
    return (await this.#source.read(this.#name)).subarray(0, length);
  }
}

/** The state, checked. */
interface State {
  readonly type: FourBitType;
  readonly blockSize: number;
  readonly dtype: string;
  readonly shape: readonly [number, number];
  /** The offset of double-quantized scales; null for plain ones. */
  readonly offset: number | null;
}

async function readState(source: TensorSource, name: string, reader: Reader): Promise<State> {
  const names = statesOf(source, name);
  if (names.length !== 1) {
    throw reader.fault(`found ${names.length} quantization states, wanted one`);
  }
  const [key] = names;
  const suffix = key.slice(name.length + STATE.length);
  const text = new TextDecoder().decode(await source.read(key));
  let json: Record<string, unknown>;
  try {
    checkDepth(text);
    json = Object(JSON.parse(text));
  } catch {
    throw reader.fault(`found no JSON in "${key}", wanted {"quant_type", "blocksize", …}`);
  }
  const need = (field: string, is: boolean, wanted: string) => {
    if (is) return;
    const found = brief(json[field]);
    throw reader.fault(`found ${found} as "${field}" in "${key}", wanted ${wanted}`);
  };
  const { quant_type: type, blocksize: block, dtype, shape } = json;
  need("quant_type", type === suffix && TYPES.includes(suffix), '"nf4" or "fp4", as in its name');
  const size = Number(block);
  const isBlock = typeof block === "number" && Number.isInteger(Math.log2(size)) &&
    size >= 32 && size <= 4096;
  need("blocksize", isBlock, "a power of two from 32 to 4096");
  need("dtype", typeof dtype === "string", 'a type such as "float32"');
  const isShape = Array.isArray(shape) && shape.length === 2 &&
    shape.every((length) => Number.isSafeInteger(length) && length > 0);
  need("shape", isShape, "[rows, columns]");
  const isNested = json.nested_offset !== undefined;
  if (isNested) {
    need("nested_offset", Number.isFinite(json.nested_offset), "a number");
    need("nested_blocksize", json.nested_blocksize === NESTED_BLOCK, `${NESTED_BLOCK}`);
    need("nested_dtype", json.nested_dtype === "float32", '"float32"');
  }
  return {
    type: type as FourBitType,
    blockSize: size,
    dtype: dtype as string,
    shape: shape as [number, number],
    offset: isNested ? json.nested_offset as number : null,
  };
}

/**
 * Reads a 4-bit weight out of a checkpoint. Everything is checked: that its tensors are there, fit each other and the state,
 * hold finite scales, and mean the value table that bitsandbytes decodes by.
 *
 * @param source the checkpoint
 * @param name the weight's name, such as `model.layers.0.mlp.up_proj.weight`
 * @throws {RangeError} if anything is missing or does not fit, naming the tensor
 *
 * @example
 * ```ts
 * import { readFourBit, SafetensorsFile, storeFourBit, writeSafetensors } from "@nibble/nibble";
 *
 * const path = `${await Deno.makeTempDir()}/one.safetensors`;
 * const bytes = { packed: new Uint8Array(64).fill(0x77), scales: Float32Array.of(1, 2) };
 * const stored = { bytes, shape: [2, 64], type: "nf4", blockSize: 64, dtype: "float32" } as const;
 * await writeSafetensors(path, storeFourBit("up.weight", stored));
 * using file = await SafetensorsFile.open(path);
 * console.log((await readFourBit(file, "up.weight")).shape); // [ 2, 64 ]
 * ```
 */
export async function readFourBit(source: TensorSource, name: string): Promise<StoredFourBit> {
  const reader = new Reader(source, name);
  const { offset, ...state } = await readState(source, name, reader);
  const size = state.shape[0] * state.shape[1];
  const blocks = Math.ceil(size / state.blockSize);
  const table = await reader.floats(".quant_map", 16);
  const wanted = storedTable(state.type);
  // bitsandbytes' kernels decode by their own table, whatever the file says: another one is not what the weights were made with.
  const other = table.findIndex((value, i) => Math.abs(value - wanted[i]) > 1e-6);
  if (other >= 0) {
    throw reader.fault(
      `found ${table[other]} at ${other} of "${name}.quant_map", wanted ${state.type}'s ${
        wanted[other]
      }`,
    );
  }
  const packed = await reader.codes(size);
  if (offset === null) {
    return { ...state, bytes: { packed, scales: await reader.floats(".absmax", blocks) } };
  }
  const scales = {
    codes: await reader.take(".absmax", "U8", blocks),
    nestedAbsmax: await reader.floats(".nested_absmax", Math.ceil(blocks / NESTED_BLOCK)),
    map: await reader.floats(".nested_quant_map", 256),
    offset: Math.fround(offset),
  };
  return { ...state, bytes: { packed, scales } };
}
