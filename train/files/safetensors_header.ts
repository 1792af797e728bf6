/**
 * The header of a safetensors file: dtypes, sizes, and the checks that the safetensors library makes too.
 *
 * @module
 */
import { showShape, sizeOf } from "../../core/shape.ts";
import { brief, members } from "./json_text.ts";

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

/**
 * The longest header. The library allows 100 MB, but the text and what it says would take several times that before anything could
 * be refused.
 */
const MAX_HEADER = 1 << 24;

/** The most tensors of a file: the largest models have fewer in all their shards. */
const MOST_TENSORS = 100_000;

/** The most entries of `__metadata__`. */
const MOST_METADATA = 10_000;

/** The most axes of a tensor, as in PyTorch. */
const MOST_AXES = 64;

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
  // Before memory is taken: a file of nine bytes must not cost 16 MB.
  const bytes = start > size ? null : new Uint8Array(Number(length));
  if (!bytes || !fill(file, bytes)) {
    throw new RangeError(
      `Cannot read "${path}": its header should end at byte ${start}, but the file ends at ${size}; fetch it again`,
    );
  }
  const entries = new Map<string, TensorEntry>();
  let metadata: Record<string, string> = {};
  for (const [name, value] of headerMembers(path, bytes)) {
    if (name === "__metadata__") metadata = readMetadata(path, value);
    else entries.set(name, checkEntry(path, name, value, size - start));
    if (entries.size > MOST_TENSORS) {
      throw new RangeError(
        `Cannot read "${path}": its header has more than ${MOST_TENSORS} tensors, wanted fewer; split it into shards`,
      );
    }
  }
  checkExtent(path, entries, size - start);
  return { entries, metadata, start };
}

function* headerMembers(path: string, bytes: Uint8Array): Generator<[string, string]> {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new SyntaxError(`Cannot read "${path}": its header is not UTF-8; fetch it again`);
  }
  if (/^[ \t\n\r]*[^ \t\n\r{]/.test(text)) {
    throw new SyntaxError(
      `Cannot read "${path}": its header is not a JSON object, but begins ${brief(text, 20)}`,
    );
  }
  yield* parsing(`Cannot read "${path}": its header is not valid JSON`, members(text));
}

/** The members, with what is wrong with the text told after `begin`. */
function* parsing(
  begin: string,
  list: Generator<[string, string]>,
): Generator<[string, string]> {
  while (true) {
    let next;
    try {
      next = list.next();
    } catch (error) {
      throw new SyntaxError(`${begin} (${(error as Error).message})`);
    }
    if (next.done) return;
    yield next.value;
  }
}

/** A value, or undefined where the text is no JSON. */
function valueOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function readMetadata(path: string, text: string): Record<string, string> {
  const metadata: Record<string, string> = {};
  if (text.trim() === "null") return metadata;
  const begin = `Cannot read "${path}": its __metadata__`;
  let count = 0;
  for (const [key, own] of parsing(`${begin} is not an object of texts`, members(text))) {
    const value = valueOf(own);
    if (typeof value !== "string") {
      throw new SyntaxError(`${begin} has ${brief(own)} as ${brief(key)}, wanted a text`);
    }
    if (++count > MOST_METADATA) {
      throw new RangeError(`${begin} has more than ${MOST_METADATA} entries, wanted fewer`);
    }
    // Not by assignment, which would take "__proto__" for something else.
    Object.defineProperty(metadata, key, { value, enumerable: true, writable: true });
  }
  return metadata;
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function checkEntry(path: string, name: string, text: string, available: number): TensorEntry {
  const begins = `Cannot read ${brief(name)} in "${path}":`;
  const wants = 'wanted {"dtype", "shape", "data_offsets": [begin, end]}';
  const fields = new Map<string, unknown>();
  // Checked by its first character, so that a number or a list is shown as it is.
  if (text.startsWith("{")) {
    for (
      const [field, value] of parsing(`${begins} its header entry is not valid`, members(text))
    ) {
      fields.set(field, valueOf(value));
    }
  }
  const [dtype, shape, offsets] = ["dtype", "shape", "data_offsets"].map((own) => fields.get(own));
  if (
    typeof dtype !== "string" || !Array.isArray(shape) || !shape.every(isCount) ||
    !Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)
  ) {
    const found = text.length > 200 ? `${text.slice(0, 200)}…` : text;
    throw new SyntaxError(`${begins} its header entry is ${found}, ${wants}`);
  }
  if (shape.length > MOST_AXES) {
    throw new RangeError(`${begins} it has ${shape.length} axes, wanted at most ${MOST_AXES}`);
  }
  const [begin, end] = offsets as number[];
  const wanted = bytesOf(dtype, shape);
  if (wanted === null) {
    throw new SyntaxError(`${begins} the dtype ${brief(dtype)} is not one of ${known()}`);
  }
  if (end - begin !== wanted) {
    const takes = Number.isSafeInteger(wanted)
      ? `takes ${wanted}`
      : "does not take a whole number of bytes below 2^53";
    throw new RangeError(
      `${begins} it has ${end - begin} bytes, but ${dtype} ${showShape(shape)} ${takes}`,
    );
  }
  if (end > available) {
    throw new RangeError(
      `${begins} it ends at byte ${end} of the data, but the file has ${available}; fetch it again`,
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
    if (begin !== at) {
      throw new RangeError(
        `Cannot read ${
          brief(name)
        } in "${path}": it begins at byte ${begin} of the data, wanted ${at}, where the tensor before it ends`,
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
