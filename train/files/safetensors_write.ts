/**
 * Writing safetensors files, with the byte layout of the safetensors library (github.com/huggingface/safetensors,
 * `safetensors/src/tensor.rs`).
 *
 * @module
 */
import { showShape } from "../../core/shape.ts";
import { replaceFile } from "./output.ts";
import { bytesOf, DTYPES, known } from "./safetensors_header.ts";

/** A tensor to write. */
export interface TensorData {
  /** As the format spells it: "F32", "BF16", "U8". */
  readonly dtype: string;
  /** Lengths of the axes; empty for a scalar. */
  readonly shape: readonly number[];
  /** Little-endian, row-major and as long as dtype and shape say. */
  readonly data: ArrayBufferView;
}

/**
 * Writes a safetensors file whole (temporary name, then rename). The same tensors and metadata give the same bytes, whatever
 * the order of the map, and those are the bytes of the safetensors library.
 *
 * @throws {TypeError} if a dtype is unknown.
 * @throws {RangeError} if a tensor's bytes do not fit its shape.
 * @throws {Error} if the file cannot be written.
 *
 * @example A file that Python opens with `safetensors.torch.load_file`
 * ```ts
 * import { writeSafetensors } from "@nibble/nibble";
 *
 * const data = new Float32Array(6);
 * const path = `${await Deno.makeTempDir()}/zeros.safetensors`;
 * await writeSafetensors(path, new Map([["zeros", { dtype: "F32", shape: [2, 3], data }]]));
 * ```
 */
export async function writeSafetensors(
  path: string,
  tensors: ReadonlyMap<string, TensorData>,
  metadata: Readonly<Record<string, string>> = { format: "pt" },
): Promise<void> {
  const sorted = [...tensors].sort(([a, one], [b, other]) =>
    DTYPES.indexOf(other.dtype) - DTYPES.indexOf(one.dtype) || (a < b ? -1 : a > b ? 1 : 0)
  );
  const entries: [string, unknown][] = [["__metadata__", metadata]];
  let end = 0;
  for (const [name, { dtype, shape, data }] of sorted) {
    const wanted = bytesOf(dtype, shape);
    if (wanted === null) {
      throw new TypeError(
        `Cannot write "${name}" to "${path}": the dtype "${dtype}" is not one of ${known()}`,
      );
    }
    if (data.byteLength !== wanted) {
      throw new RangeError(
        `Cannot write "${name}" to "${path}": it has ${data.byteLength} bytes, but ${dtype} ${
          showShape(shape)
        } takes ${wanted}`,
      );
    }
    entries.push([name, { dtype, shape, data_offsets: [end, end += wanted] }]);
  }
  // Assembled by hand: an object would move keys such as "0" to the front.
  const fields = entries.map(([name, value]) => `${JSON.stringify(name)}:${JSON.stringify(value)}`);
  const json = new TextEncoder().encode(`{${fields.join(",")}}`);
  const header = new Uint8Array(8 + Math.ceil(json.length / 8) * 8).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(header.length - 8), true);
  header.set(json, 8);
  await replaceFile(path, async (temporary) => {
    try {
      using file = await Deno.open(temporary, { write: true, create: true, truncate: true });
      writeAll(file, header);
      for (const [, { data }] of sorted) {
        writeAll(file, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
      }
    } catch (error) {
      throw new Error(`Cannot write "${path}": ${(error as Error).message}`, { cause: error });
    }
  });
}

function writeAll(file: Deno.FsFile, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length;) at += file.writeSync(bytes.subarray(at));
}
