import fc from "fast-check";
import { GgufFile } from "../../../train/files/gguf.ts";
import { assert } from "../../assert.ts";
import { f32Bytes, ggufBytes } from "./gguf_bytes.ts";

/** Cases of each kind. */
const RUNS = 6000;

/** Every case must be over after so long, in ms. */
const LIMIT = 1000;

/** A small file with something of everything. */
const SEED = ggufBytes({
  metadata: [
    ["general.architecture", { string: "llama" }],
    ["general.alignment", { u32: 32 }],
    ["llama.block_count", { u32: 2 }],
    ["llama.rope.freq_base", { f32: 1e5 }],
    ["flag", { bool: true }],
    ["big", { u64: 2n ** 40n }],
    ["tokenizer.ggml.tokens", { array: "string", of: ["a", "b", "ab"] }],
    ["tokenizer.ggml.token_type", { array: "i32", of: [1, 1, 3] }],
    ["deep", { array: "array", of: [{ array: "u8", of: [1, 2] }] }],
  ],
  tensors: [
    { name: "a.weight", type: 0, shape: [2, 4], data: f32Bytes(1, 2, 3, 4, 5, 6, 7, 8) },
    { name: "b.weight", type: 3, shape: [2, 32], data: new Uint8Array(40).fill(7) },
    { name: "c.weight", type: 14, shape: [256], data: new Uint8Array(210).fill(9) },
  ],
});

/** Numbers that break readers: limits of types, lengths around the file's, powers of two. */
const WORDS = [0n, 1n, 31n, 255n, 2n ** 31n - 1n, 2n ** 31n, 2n ** 32n - 1n, 2n ** 32n]
  .concat([2n ** 53n, 2n ** 60n, 2n ** 63n - 1n, 2n ** 63n, 2n ** 64n - 1n, BigInt(SEED.length)]);

const place = fc.nat(SEED.length - 1);
const mutation = fc.oneof(
  fc.record({ kind: fc.constant("byte"), at: place, value: fc.nat(255) }),
  fc.record({ kind: fc.constant("u32"), at: place, value: fc.constantFrom(...WORDS) }),
  fc.record({ kind: fc.constant("u64"), at: place, value: fc.constantFrom(...WORDS) }),
  fc.record({ kind: fc.constant("cut"), at: place, value: fc.nat(64) }),
  fc.record({ kind: fc.constant("repeat"), at: place, value: fc.nat(64) }),
  fc.record({ kind: fc.constant("end"), at: place, value: fc.constant(0) }),
);
type Mutation = typeof mutation extends fc.Arbitrary<infer T> ? T : never;

function mutate(bytes: number[], { kind, at, value }: Mutation): void {
  const [from, number] = [Math.min(at, bytes.length), Number(value)];
  if (kind === "byte") bytes[from] = number;
  else if (kind === "cut") bytes.splice(from, number);
  else if (kind === "repeat") bytes.splice(from, 0, ...bytes.slice(from, from + number));
  else if (kind === "end") bytes.length = from;
  else {
    for (let i = 0; i < (kind === "u32" ? 4 : 8); i++) {
      bytes[from + i] = Number(BigInt(value) >> BigInt(8 * i) & 255n);
    }
  }
}

const folder = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));
const path = `${folder}/fuzzed.gguf`;

/** Opens a file of these bytes and reads all of it: this either works or ends in an error that nibble wrote. */
async function isHandled(bytes: Uint8Array): Promise<"read" | "refused"> {
  const start = performance.now();
  Deno.writeFileSync(path, bytes);
  try {
    using file = await GgufFile.open(path);
    for (const name of file.entries.keys()) await file.readFloats(name);
    return "read";
  } catch (error) {
    const { message } = error as Error;
    assert(/^Cannot read .{10}/s.test(message), `An error of the engine: ${error}`);
    assert(message.length < 1000, `A message of ${message.length} characters`);
    return "refused";
  } finally {
    const time = performance.now() - start;
    assert(time < LIMIT, `${time} ms, at most ${LIMIT} are allowed`);
  }
}

Deno.test(`${RUNS} mutated files are read, or refused with a reason`, async () => {
  const count = { read: 0, refused: 0 };
  await fc.assert(
    fc.asyncProperty(fc.array(mutation, { minLength: 1, maxLength: 6 }), async (mutations) => {
      const bytes = Array.from(SEED);
      for (const own of mutations) mutate(bytes, own);
      count[await isHandled(Uint8Array.from(bytes))]++;
    }),
    { numRuns: RUNS, seed: 7 },
  );
  // The mutations must not all hit what is checked first.
  assert(count.read > RUNS / 50 && count.refused > RUNS / 2, JSON.stringify(count));
});

Deno.test(`${RUNS} files of arbitrary bytes behind a true beginning are refused with a reason`, async () => {
  const beginning = fc.nat(SEED.length);
  await fc.assert(
    fc.asyncProperty(beginning, fc.uint8Array({ maxLength: 300 }), async (length, rest) => {
      await isHandled(Uint8Array.from([...SEED.subarray(0, length), ...rest]));
    }),
    { numRuns: RUNS, seed: 8 },
  );
});
