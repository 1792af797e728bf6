import { createHash } from "node:crypto";
import { GgufFile } from "../../../train/files/gguf.ts";
import { assert, assertEquals, assertRejects } from "../../assert.ts";
import { peakDuring } from "../../peak_memory.ts";
import { f32Bytes, ggufBytes, type TestFile, type TestTensor, type Value } from "./gguf_bytes.ts";

const folder = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));

let files = 0;

/** Writes a file and opens it. */
async function open(content: TestFile | Uint8Array): Promise<GgufFile> {
  const path = `${folder}/${files++}.gguf`;
  await Deno.writeFile(path, content instanceof Uint8Array ? content : ggufBytes(content));
  return await GgufFile.open(path);
}

const W: TestTensor = { name: "w", type: 0, shape: [2, 2], data: f32Bytes(1, 2, 3, 4) };

Deno.test("GgufFile reads every type of metadata, in versions 2 and 3", async () => {
  const metadata: [string, Value][] = [
    ["a.u8", { u8: 255 }],
    ["a.i8", { i8: -128 }],
    ["a.u16", { u16: 65535 }],
    ["a.i16", { i16: -32768 }],
    ["a.u32", { u32: 2 ** 32 - 1 }],
    ["a.i32", { i32: -(2 ** 31) }],
    ["a.f32", { f32: 0.1 }],
    ["a.bool", { bool: true }],
    ["a.string", { string: "\uFEFFnaïve 👋" }],
    ["a.u64", { u64: 7n }],
    ["a.large", { u64: 2n ** 64n - 1n }],
    ["a.i64", { i64: -(2n ** 60n) }],
    ["a.f64", { f64: 0.1 }],
    ["a.words", { array: "string", of: ["a", "", "\uFEFF"] }],
    ["a.flags", { array: "bool", of: [true, false] }],
    ["a.counts", { array: "i32", of: [1, -2, 3] }],
    ["a.long", { array: "u64", of: [2n ** 63n] }],
    ["a.none", { array: "f32", of: [] }],
    ["a.deep", {
      array: "array",
      of: [{ array: "u8", of: [1] }, { array: "string", of: ["x"] }],
    }],
  ];
  for (const version of [2, 3]) {
    using file = await open({ version, metadata, tensors: [W] });
    assertEquals(file.version, version);
    assertEquals([...file.metadata], [
      ["a.u8", 255],
      ["a.i8", -128],
      ["a.u16", 65535],
      ["a.i16", -32768],
      ["a.u32", 2 ** 32 - 1],
      ["a.i32", -(2 ** 31)],
      ["a.f32", Math.fround(0.1)],
      ["a.bool", true],
      ["a.string", "\uFEFFnaïve 👋"],
      ["a.u64", 7],
      ["a.large", 2n ** 64n - 1n],
      ["a.i64", -(2n ** 60n)],
      ["a.f64", 0.1],
      ["a.words", ["a", "", "\uFEFF"]],
      ["a.flags", [true, false]],
      ["a.counts", Int32Array.of(1, -2, 3)],
      ["a.long", BigUint64Array.of(2n ** 63n)],
      ["a.none", new Float32Array(0)],
      ["a.deep", [Uint8Array.of(1), ["x"]]],
    ]);
    assertEquals(await file.readFloats("w"), Float32Array.of(1, 2, 3, 4));
  }
});

Deno.test("metadata longer than a read at a time is whole", async () => {
  const words = Array.from({ length: 40_000 }, (_, i) => `wörd ${i} ${"x".repeat(i % 40)}`);
  const long = "é".repeat(400_000);
  using file = await open({
    metadata: [["words", { array: "string", of: words }], ["long", { string: long }]],
    tensors: [W],
  });
  assertEquals(file.metadata.get("words"), words);
  assertEquals(file.metadata.get("long"), long);
  assertEquals(await file.readFloats("w"), Float32Array.of(1, 2, 3, 4));
});

Deno.test("tensors have row-major shapes and their bytes, whatever the alignment and the gaps", async () => {
  const alignment = 256;
  const tensors: TestTensor[] = [
    { name: "matrix", type: 0, shape: [3, 2], data: f32Bytes(1, 2, 3, 4, 5, 6) },
    { name: "scalar", type: 0, shape: [], data: f32Bytes(7) },
    { name: "none", type: 0, shape: [4, 0], data: f32Bytes() },
    { name: "ints", type: 26, shape: [1], data: Uint8Array.of(1, 0, 0, 0) },
  ];
  const metadata: [string, Value][] = [["general.alignment", { u32: alignment }]];
  using file = await open({ metadata, tensors, alignment });
  assertEquals(file.entries.get("matrix"), { dtype: "F32", shape: [3, 2], begin: 0, end: 24 });
  assertEquals(file.entries.get("scalar"), { dtype: "F32", shape: [], begin: 256, end: 260 });
  const read = (name: string) => file.readFloats(name);
  assertEquals(await Promise.all(["matrix", "scalar", "none"].map(read)), [
    Float32Array.of(1, 2, 3, 4, 5, 6),
    Float32Array.of(7),
    new Float32Array(0),
  ]);
  assertEquals(await file.read("ints"), Uint8Array.of(1, 0, 0, 0));
  await assertRejects(() => file.readFloats("ints"), TypeError, "it holds I32, wanted F32, F16");
  await assertRejects(() => file.read("no"), RangeError, 'has 4 tensors, such as "matrix"');
});

const GOLDEN = JSON.parse(
  await Deno.readTextFile(new URL("../../golden/gguf/blocks.json", import.meta.url)),
).types as Record<string, { id: number; bytes: string; sha256: string; n: number }>;

Deno.test("every block type is decoded as gguf-py does it, to the last bit", async () => {
  for (const [name, { id, bytes, sha256, n }] of Object.entries(GOLDEN)) {
    const data = Uint8Array.fromHex(bytes);
    using file = await open({ tensors: [W, { name, type: id, shape: [n], data }] });
    assertEquals(file.entries.get(name)?.dtype, name);
    const floats = await file.readFloats(name);
    const sum = createHash("sha256").update(new Uint8Array(floats.buffer)).digest("hex");
    assertEquals(sum, sha256, name);
  }
});

Deno.test("a tensor larger than a piece is decoded piece by piece without a seam", async () => {
  // Pieces are 1 MiB, which 34-byte blocks do not divide.
  const block = new Uint8Array(34);
  const blocks = 70_000;
  const data = new Uint8Array(34 * blocks);
  for (let i = 0; i < blocks; i++) {
    block.fill(i % 127, 2);
    block[1] = 0x3c; // 1 in half precision
    data.set(block, 34 * i);
  }
  using file = await open({ tensors: [{ name: "w", type: 8, shape: [blocks, 32], data }] });
  const floats = await file.readFloats("w");
  assert(floats.every((number, i) => number === Math.floor(i / 32) % 127));
});

Deno.test("open() says what is wrong with a file", async () => {
  const rejects = (
    content: TestFile | Uint8Array,
    type: ErrorConstructor,
    text: string,
  ) => assertRejects(() => open(content), type, text);
  const missing = () => GgufFile.open(`${folder}/missing`);
  await assertRejects(missing, Error, `missing": there is no such file`);
  await assertRejects(() => GgufFile.open(folder), Error, "it is a folder");
  await rejects(new Uint8Array(3), SyntaxError, "it begins with 3 bytes");
  await rejects({ magic: "GGML" }, SyntaxError, 'it begins with "GGML", a GGUF file with "GGUF"');
  await rejects({ version: 1 }, SyntaxError, "it is of version 1, wanted version 2 or 3");
  await rejects({ version: 0x03000000 }, SyntaxError, "it is in big-endian order");
  await rejects({ tensorCount: 2n ** 60n }, RangeError, "header of 1152921504606846976 tensors");
  await rejects({ keyCount: 2n ** 64n - 1n }, RangeError, "and 18446744073709551615 keys");
  const whole = ggufBytes({ metadata: [["key", { string: "value" }]], tensors: [W] });
  for (let end = 0; end < whole.length; end++) {
    const error = await assertRejects(() => open(whole.slice(0, end)), Error, "Cannot read");
    assert(/the file ends at|a GGUF file with|the file has/.test(error.message), error.message);
  }
});

Deno.test("open() refuses metadata that it cannot trust", async () => {
  const rejects = (metadata: [string, Value][], type: ErrorConstructor, text: string) =>
    assertRejects(() => open({ metadata, tensors: [W] }), type, text);
  await rejects([["a", { u8: 1 }], ["a", { u8: 2 }]], SyntaxError, 'has "a" twice');
  await rejects([["a", { bool: 2 }]], SyntaxError, `metadata's "a" is 2, wanted 0 or 1`);
  await rejects([["general.alignment", { u32: 24 }]], RangeError, "is 24, wanted a power of two");
  await rejects([["general.alignment", { string: "32" }]], RangeError, `is "32", wanted a power`);
  await rejects([["a", { array: "nothing", of: [] }]], SyntaxError, "is of type 4294967295");
  let deep: Value = { array: "u8", of: [1] };
  for (let i = 0; i < 5; i++) deep = { array: "array", of: [deep] };
  await rejects([["a", deep]], RangeError, "arrays 5 deep, at most 4");
  // A length of 2^60 in a string, in an array of numbers, in an array of strings.
  for (const [key, value] of [["s", { string: "" }], ["n", { array: "i32", of: [] }]] as const) {
    const bytes = ggufBytes({ metadata: [[key, value]], tensors: [W] });
    const at = 24 + 8 + key.length + 4 + (key === "n" ? 4 : 0);
    new DataView(bytes.buffer).setBigUint64(at, 2n ** 60n, true);
    await assertRejects(() => open(bytes), RangeError, `the metadata's "${key}" at byte`);
  }
  const invalid = ggufBytes({ metadata: [["s", { string: "ab" }]], tensors: [W] });
  invalid[24 + 8 + 1 + 4 + 8] = 0xff;
  await assertRejects(() => open(invalid), SyntaxError, "is not UTF-8");
});

Deno.test("open() refuses tensors that do not fit", async () => {
  const rejects = (tensors: TestTensor[], type: ErrorConstructor, text: string) =>
    assertRejects(() => open({ tensors }), type, text);
  const next: TestTensor = { ...W, name: "v" };
  await rejects([W, W], SyntaxError, 'has the tensor "w" twice');
  await rejects([{ ...W, type: 99 }], SyntaxError, "its type is 99");
  await rejects([{ ...W, type: 2 }], RangeError, "its rows have 2 numbers, but Q4_0 is made of");
  await rejects([{ ...W, shape: [1, 1, 1, 2, 2] }], SyntaxError, "it has 5 axes");
  await rejects([{ ...W, shape: [2n ** 60n, 4] }], RangeError, "F32 [1152921504606846976,4]");
  await rejects([{ ...W, shape: [2n ** 63n, 2n ** 63n, 4] }], RangeError, "takes 1361129467683");
  await rejects([{ ...W, shape: [2n ** 60n, 0] }], RangeError, "F32 [1152921504606846976,0]");
  await rejects(
    [{ ...W, shape: [5] }],
    RangeError,
    "ends at byte 20 of the data, but the file has",
  );
  await rejects([{ ...W, offset: 8n }], RangeError, "begins at byte 8 of the data, wanted a mul");
  await rejects([{ ...W, offset: 2n ** 60n }], RangeError, "from byte 1152921504606846976");
  await rejects([W, { ...next, offset: 0n }], RangeError, 'byte 0 of the data, but "w" ends at 16');
  await rejects([{ ...W, name: "n".repeat(65) }], SyntaxError, "of 65 characters");
});

Deno.test("a hostile header of a large file is refused within a second, before it fills the memory", async () => {
  const path = `${folder}/large.gguf`;
  /** A file of 4 GB that is nothing but zeros behind these bytes. */
  const craft = async (bytes: Uint8Array) => {
    await Deno.writeFile(path, bytes);
    await Deno.truncate(path, 2 ** 32);
  };
  const array = (type: string, length: bigint) => {
    const value: Value = { array: type, of: [] };
    const bytes = ggufBytes({ metadata: [["a", value]], alignment: 1 });
    new DataView(bytes.buffer).setBigUint64(bytes.length - 8, length, true);
    return bytes;
  };
  const cases: [Uint8Array, string][] = [
    [array("string", 2n ** 22n), "its metadata has 4194304 strings, at most 2000000 are allowed"],
    [array("string", 2n ** 28n), "its header would have more than 41943040 bytes"],
    [array("u8", 2n ** 31n), "its header would have more than 41943040 bytes"],
    [array("array", 2n ** 21n), "its metadata has 2097152 strings"],
    [ggufBytes({ keyCount: 2n ** 20n }), "at most 100000 are allowed"],
    [ggufBytes({ tensorCount: 2n ** 20n }), "at most 100000 are allowed"],
    [ggufBytes({ keyCount: 90_000n }), 'has "" twice'],
  ];
  for (const [bytes, text] of cases) {
    await craft(bytes);
    const start = performance.now();
    const { peak } = await peakDuring(() => assertRejects(() => GgufFile.open(path), Error, text));
    assert(performance.now() - start < 1000);
    assert(peak === null || peak < 100e6, `${peak} bytes`);
  }
});
