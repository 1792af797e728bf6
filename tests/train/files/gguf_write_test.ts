import { GgufFile } from "../../../train/files/gguf.ts";
import { GGUF_ENCODINGS } from "../../../train/files/gguf_quantize.ts";
import { type GgufField, type GgufTensor, writeGguf } from "../../../train/files/gguf_write.ts";
import { assert, assertEquals, assertRejects } from "../../assert.ts";
import { randomNumbers } from "../../device.ts";
import { ggufBytes } from "./gguf_bytes.ts";

const GOLDEN: Record<string, string> = JSON.parse(
  await Deno.readTextFile(new URL("../../golden/gguf/quantized.json", import.meta.url)),
);
const folder = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));

type Type = keyof typeof GGUF_ENCODINGS;
const SIZES: Record<Type, number> = { F32: 128, F16: 64, BF16: 64, Q8_0: 34, Q4_0: 18 };

function encode(type: Type, numbers: Float32Array): Uint8Array {
  const bytes = new Uint8Array(numbers.length / 32 * SIZES[type]);
  GGUF_ENCODINGS[type].encode(numbers, bytes);
  return bytes;
}

Deno.test("blocks are quantized as gguf-py does it, byte for byte", () => {
  const x = new Float32Array(Uint8Array.fromHex(GOLDEN.x).buffer);
  for (const type of ["F16", "BF16", "Q8_0", "Q4_0"] as const) {
    const [found, wanted] = [encode(type, x), Uint8Array.fromHex(GOLDEN[type])];
    for (let at = 0; at < found.length; at += SIZES[type]) {
      const block = (bytes: Uint8Array) => bytes.slice(at, at + SIZES[type]).toHex();
      assertEquals(block(found), block(wanted), `${type}, block ${at / SIZES[type]}`);
    }
  }
});

Deno.test("a block made by hand", () => {
  // The largest, −8, is code 0 with d = 1; 7 is 15, 0 is 8; 0.5 rounds up, and 8 is cut to 15.
  const x = new Float32Array(32);
  x.set([-8, 7, 0, 0.5, -0.5, 8]);
  x[16] = -7;
  assertEquals(encode("Q4_0", x).toHex(), "003c" + "108f8889888f" + "88".repeat(10));
  const y = new Float32Array(32);
  y.set([127, -127, 0.5, -0.5, 1.5, -1.5, 0.49, 2.5]);
  assertEquals(encode("Q8_0", y).toHex(), "003c" + "7f8101ff02fe0003" + "00".repeat(24));
  // In a block of zeros d is −0, as in C: 0 / −8.
  assertEquals(encode("Q4_0", new Float32Array(32)).toHex(), "0080" + "88".repeat(16));
});

/** The nearest whole number, halves away from zero. */
function roundHalfAway(x: number): number {
  return Math.sign(x) * Math.floor(Math.abs(x) + 0.5);
}

Deno.test("codes are those of the definition in 64 bits, but where 32 bits round across a half", async () => {
  const x = randomNumbers(32 * 2000, 3);
  const path = `${folder}/definition.gguf`;
  for (const [dtype, steps] of [["Q8_0", 127], ["Q4_0", 8]] as const) {
    const tensor: GgufTensor = { dtype, shape: [2000, 32], read: () => x };
    await writeGguf(path, new Map(), new Map([["x", tensor]]));
    using file = await GgufFile.open(path);
    const decoded = await file.readFloats("x");
    let apart = 0;
    for (let from = 0; from < x.length; from += 32) {
      const block = [...x.subarray(from, from + 32)];
      const largest = block.reduce((a, b) => Math.abs(b) > Math.abs(a) ? b : a, 0);
      const d = dtype === "Q8_0" ? Math.abs(largest) / steps : largest / -steps;
      for (const [j, number] of block.entries()) {
        const code = dtype === "Q8_0"
          ? roundHalfAway(number / d)
          : Math.min(15, Math.trunc(number / d + 8.5)) - 8;
        if (decoded[from + j] !== Math.fround(code * new Float16Array([d])[0])) apart++;
      }
    }
    assert(apart <= 2, `${dtype}: ${apart} codes`);
  }
});

Deno.test("a file has the bytes that the format says", async () => {
  const path = `${folder}/bytes.gguf`;
  const words = ["", "é"];
  const metadata = new Map<string, GgufField>([
    ["general.architecture", "llama"],
    ["yes", true],
    ["count", { type: "u32", value: 7 }],
    ["rate", { type: "f32", value: 1e-5 }],
    ["big", { type: "u64", value: 2n ** 60n }],
    ["words", words],
    ["types", Int32Array.of(1, -3)],
    ["scores", Float32Array.of(-0.5)],
  ]);
  const numbers = randomNumbers(64, 5);
  const q8: GgufTensor = { dtype: "Q8_0", shape: [1, 2, 32], read: () => numbers };
  const f32: GgufTensor = { dtype: "F32", shape: [], read: () => Float32Array.of(5) };
  await writeGguf(path, metadata, new Map([["q", q8], ["f", f32]]));
  const wanted = ggufBytes({
    metadata: [
      ["general.architecture", { string: "llama" }],
      ["yes", { bool: true }],
      ["count", { u32: 7 }],
      ["rate", { f32: 1e-5 }],
      ["big", { u64: 2n ** 60n }],
      ["words", { array: "string", of: words }],
      ["types", { array: "i32", of: [1, -3] }],
      ["scores", { array: "f32", of: [-0.5] }],
    ],
    tensors: [
      { name: "q", type: 8, shape: [1, 2, 32], data: encode("Q8_0", numbers) },
      { name: "f", type: 0, shape: [], data: new Uint8Array(Float32Array.of(5).buffer) },
    ],
  });
  const found = await Deno.readFile(path);
  assertEquals(found.slice(0, wanted.length).toHex(), wanted.toHex());
  assert(found.length % 32 === 0, "the last tensor is padded too, as llama.cpp pads it");
});

Deno.test("a tensor larger than a piece is encoded without a seam, and tensors are read in turn", async () => {
  const path = `${folder}/large.gguf`;
  const numbers = randomNumbers(32 * 10_000, 9);
  let open = 0;
  const tensor = (dtype: Type): GgufTensor => ({
    dtype,
    shape: [10_000, 32],
    read: async () => {
      assertEquals(++open, 1);
      await Promise.resolve();
      open--;
      return numbers;
    },
  });
  const types = Object.keys(GGUF_ENCODINGS) as Type[];
  await writeGguf(path, new Map(), new Map(types.map((type) => [type, tensor(type)])));
  using file = await GgufFile.open(path);
  for (const type of types) {
    assertEquals(file.entries.get(type)?.dtype, type);
    assertEquals(await file.read(type), encode(type, numbers), type);
  }
  assertEquals(await file.readFloats("F32"), numbers);
});

Deno.test("what cannot be written is refused by name, and the file that was there stays", async () => {
  const path = `${folder}/old.gguf`;
  await Deno.writeTextFile(path, "old");
  const refuses = async (
    name: string,
    tensor: Partial<GgufTensor> & { of?: number[] },
    type: ErrorConstructor,
    text: string,
  ) => {
    const { of = [1], ...rest } = tensor;
    const read = () => Float32Array.from(of);
    const whole = { dtype: "F32", shape: [of.length], read, ...rest } as GgufTensor;
    const good: GgufTensor = { dtype: "F32", shape: [1], read: () => Float32Array.of(1) };
    const write = () => writeGguf(path, new Map(), new Map([["good", good], [name, whole]]));
    await assertRejects(write, type, text);
    assertEquals(await Deno.readTextFile(path), "old");
  };
  await refuses("x", { dtype: "Q4_K" as "Q4_0" }, TypeError, 'type "Q4_K", wanted one of F32, F16');
  await refuses("x", { dtype: "Q4_0", of: new Array(33).fill(0) }, RangeError, "rows of 33 numb");
  await refuses("x", { shape: [2] }, RangeError, "found 1 numbers, wanted 2 for the shape [2]");
  await refuses("x", { shape: [1, 1, 1, 1, 1] }, RangeError, "wanted at most 4 axes");
  await refuses("n".repeat(64), {}, RangeError, "a name of 64 characters, wanted at most 63");
  await refuses("x", { of: [1, NaN] }, RangeError, '"x" to');
  await refuses("x", { of: [1, -Infinity] }, RangeError, "found -Infinity, wanted numbers; is the");
  await refuses("x", { dtype: "F16", of: [65_520] }, RangeError, "found 65520, wanted numbers of");
  const reading = () => Promise.reject(new Error("the device was lost"));
  await refuses("x", { read: reading }, Error, "the device was lost");
  const names = Array.from(Deno.readDirSync(folder), ({ name }) => name);
  assertEquals(names.filter((name) => name.includes("tmp")), []);
});
