/**
 * The header of a safetensors file: dtypes, sizes, and the checks that the safetensors library makes too.
 *
 * @module
 */
import { showShape, sizeOf } from "../../core/shape.ts";

/** Where a tensor lies: `begin` and `end` are bytes after the header, as in the file. */
export interface TensorEntry {
  /** As the format spells it: "F32", "BF16", "U8". */
  readonly dtype: string;
  /** Lengths of the axes; empty for a scalar. */
  readonly shape: readonly number[];
  /** First byte. */
  readonly begin: number;
  /** One past the last byte. */
  readonly end: number;
}

/** The library's dtypes with their bits, in the order of its enum: its writer sorts by this, last one first. */
const BITS: ReadonlyMap<string, number> = new Map([
  ["BOOL", 8],
  ["F4", 4],
  ["F6_E2M3", 6],
  ["F6_E3M2", 6],
  ["U8", 8],
  ["I8", 8],
  ["F8_E5M2", 8],
  ["F8_E4M3", 8],
  ["F8_E8M0", 8],
  ["F8_E4M3FNUZ", 8],
  ["F8_E5M2FNUZ", 8],
  ["I16", 16],
  ["U16", 16],
  ["F16", 16],
  ["BF16", 16],
  ["I32", 32],
  ["U32", 32],
  ["F32", 32],
  ["C64", 64],
  ["F64", 64],
  ["I64", 64],
  ["U64", 64],
]);
/** The dtypes, in that order. */
export const DTYPES: readonly string[] = [...BITS.keys()];

/** The library's own limit on a header, so that a corrupt length cannot ask for gigabytes. */
const MAX_HEADER = 100_000_000;

/** The bytes of a tensor, or null for a dtype that the format does not have. */
export function bytesOf(dtype: string, shape: readonly number[]): number | null {
  const bits = BITS.get(dtype);
  return bits === undefined ? null : sizeOf(shape) * bits / 8;
}

/** The dtypes of the format, as errors list them. */
export function known(): string {
  return DTYPES.join(", ");
}

/** What the header of a file says. */
export interface Header {
  /** Tensors by name. */
  readonly entries: ReadonlyMap<string, TensorEntry>;
  /** The `__metadata__`; empty where there is none. */
  readonly metadata: Readonly<Record<string, string>>;
  /** The byte of the file where the data begin. */
  readonly start: number;
}

/** Reads and checks the header of an open file of `size` bytes. */
export function readHeader(path: string, file: Deno.FsFile, size: number): Header {
  const prefix = new Uint8Array(8);
  if (!fill(file, prefix)) {
    throw new SyntaxError(
      `Cannot read "${path}": it has ${size} bytes, a safetensors file has at least 8`,
    );
  }
  const length = new DataView(prefix.buffer).getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER)) {
    throw new RangeError(
      `Cannot read "${path}": its header would be ${length} bytes, at most ${MAX_HEADER} are allowed; is it a safetensors file?`,
    );
  }
  const start = 8 + Number(length);
  const bytes = new Uint8Array(Number(length));
  if (start > size || !fill(file, bytes)) {
    throw new RangeError(
      `Cannot read "${path}": its header should end at byte ${start}, but the file ends at ${size}; fetch it again`,
    );
  }
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    throw new SyntaxError(
      `Cannot read "${path}": its header is not valid JSON (${(error as Error).message})`,
    );
  }
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    throw new SyntaxError(`Cannot read "${path}": its header is not a JSON object`);
  }
  const entries = new Map<string, TensorEntry>();
  let metadata: Record<string, string> = {};
  for (const [name, value] of Object.entries(json)) {
    if (name === "__metadata__") metadata = value ?? {};
    else entries.set(name, checkEntry(path, name, value));
  }
  checkExtent(path, entries, size - start);
  return { entries, metadata, start };
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function checkEntry(path: string, name: string, value: unknown): TensorEntry {
  const { dtype, shape, data_offsets: offsets } = Object(value);
  if (
    typeof dtype !== "string" || !Array.isArray(shape) || !shape.every(isCount) ||
    !Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)
  ) {
    throw new SyntaxError(
      `Cannot read "${name}" in "${path}": its header entry is ${
        JSON.stringify(value)
      }, wanted {"dtype", "shape", "data_offsets": [begin, end]}`,
    );
  }
  const [begin, end] = offsets as number[];
  const wanted = bytesOf(dtype, shape);
  if (wanted === null) {
    throw new SyntaxError(
      `Cannot read "${name}" in "${path}": the dtype "${dtype}" is not one of ${known()}`,
    );
  }
  if (end - begin !== wanted) {
    throw new RangeError(
      `Cannot read "${name}" in "${path}": it has ${end - begin} bytes, but ${dtype} ${
        showShape(shape)
      } takes ${wanted}`,
    );
  }
  return { dtype, shape, begin, end };
}

/** Tensors must follow each other from byte 0 to the end of the file, without gap or overlap. */
function checkExtent(
  path: string,
  entries: ReadonlyMap<string, TensorEntry>,
  available: number,
): void {
  const sorted = [...entries].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  let at = 0;
  for (const [name, { begin, end }] of sorted) {
    if (end > available) {
      throw new RangeError(
        `Cannot read "${name}" in "${path}": it ends at byte ${end} of the data, but the file has ${available}; fetch it again`,
      );
    }
    if (begin !== at) {
      throw new RangeError(
        `Cannot read "${name}" in "${path}": it begins at byte ${begin} of the data, wanted ${at}, where the tensor before it ends`,
      );
    }
    at = end;
  }
  if (at !== available) {
    throw new RangeError(
      `Cannot read "${path}": its tensors take ${at} bytes, but ${available} follow the header`,
    );
  }
}

/** Reads until `bytes` is full; false where the file ends before. */
export function fill(file: Deno.FsFile, bytes: Uint8Array): boolean {
  for (let at = 0; at < bytes.length;) {
    const count = file.readSync(bytes.subarray(at));
    if (count === null) return false;
    at += count;
  }
  return true;
}
