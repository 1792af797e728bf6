import { createHash } from "node:crypto";
import {
  openCheckpoint,
  SafetensorsFile,
  type TensorData,
  writeSafetensors,
} from "../../../train/files/safetensors.ts";
import { assertEquals, assertRejects } from "../../assert.ts";

const folder = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));

function six(dtype: string, data: ArrayBufferView): [string, TensorData] {
  return [dtype.toLowerCase(), { dtype, shape: [2, 3], data }];
}

/** The tensors of which the safetensors library (Python, 0.8.0) made the golden sum. */
function every(): Map<string, TensorData> {
  const f32 = Float32Array.of(0, 1, 2, 3, 4, 5);
  const big = [0n, 1n, 2n, 3n, 4n, 5n];
  const [, data] = six("F32", f32);
  return new Map([
    ["b.f32", data],
    ["a.f32", data],
    ["z.f16", six("F16", new Float16Array(f32))[1]],
    six("U8", new Uint8Array(f32)),
    six("I8", new Int8Array(f32)),
    six("I32", new Int32Array(f32)),
    six("U32", new Uint32Array(f32)),
    six("I64", new BigInt64Array(big)),
    six("F64", new Float64Array(f32)),
    six("I16", new Int16Array(f32)),
    six("BOOL", Uint8Array.of(0, 1, 1, 1, 1, 1)),
    six("U64", new BigUint64Array(big)),
    six("U16", new Uint16Array(f32)),
    ["10", { dtype: "F32", shape: [], data: Float32Array.of(7) }],
    ["é", { dtype: "F32", shape: [0, 4], data: new Float32Array(0) }],
  ]);
}

Deno.test("writeSafetensors() writes the bytes of the safetensors library, in any order", async () => {
  const path = `${folder}/every.safetensors`;
  const sums: string[] = [];
  for (const tensors of [every(), new Map([...every()].reverse())]) {
    await writeSafetensors(path, tensors);
    sums.push(createHash("sha256").update(await Deno.readFile(path)).digest("hex"));
  }
  const golden = "6517f8c15f607e30d72fe7a52f7c59d8bdd8c0e8916c91d31b72630f3db4cb14";
  assertEquals(sums, [golden, golden]);
});

Deno.test("SafetensorsFile reads back entries, metadata and exact bytes", async () => {
  const path = `${folder}/back.safetensors`;
  await writeSafetensors(path, every(), { format: "pt", step: "12" });
  using file = await SafetensorsFile.open(path);
  assertEquals({ ...file.metadata }, { format: "pt", step: "12" });
  assertEquals(file.entries.get("10"), { dtype: "F32", shape: [], begin: 144, end: 148 });
  // All at once: reads must not disturb each other.
  await Promise.all([...every()].map(async ([name, { data }]) => {
    assertEquals(await file.read(name), new Uint8Array(data.buffer), name);
  }));
});

Deno.test("readFloats() widens F16, BF16 and F64, and refuses integers", async () => {
  const path = `${folder}/floats.safetensors`;
  const values = Float32Array.of(0, -1.5, 65504, Infinity, 2 ** -24, NaN);
  const brain = Uint16Array.of(0, 0xbfc0, 0x4780, 0x7f80, 0x3380, 0x7fc0);
  await writeSafetensors(
    path,
    new Map([
      six("F16", new Float16Array(values)),
      six("BF16", brain),
      six("F64", new Float64Array(values)),
      six("F32", values),
      six("I8", new Int8Array(6)),
    ]),
  );
  using file = await SafetensorsFile.open(path);
  for (const name of ["f16", "f64", "f32"]) assertEquals(await file.readFloats(name), values, name);
  assertEquals(
    await file.readFloats("bf16"),
    Float32Array.of(0, -1.5, 65536, Infinity, 2 ** -24, NaN),
  );
  await assertRejects(() => file.readFloats("i8"), TypeError, "it holds I8, wanted F32, F16");
  await assertRejects(() => file.read("nope"), RangeError, 'has 5 tensors, such as "f64"');
});

Deno.test("writeSafetensors() refuses unknown dtypes and sizes that do not fit, and writes nothing", async () => {
  const path = `${folder}/refused.safetensors`;
  const write = (dtype: string, length: number) =>
    writeSafetensors(path, new Map([["w", { dtype, shape: [2], data: new Uint8Array(length) }]]));
  await assertRejects(() => write("float32", 8), TypeError, 'the dtype "float32" is not one of');
  await assertRejects(() => write("F32", 4), RangeError, "it has 4 bytes, but F32 [2] takes 8");
  await assertRejects(() => Deno.stat(path), Deno.errors.NotFound, "");
});

/** A file of this header and this many bytes of data. */
function craft(header: unknown, data = 0, length?: bigint): string {
  const json = new TextEncoder().encode(
    typeof header === "string" ? header : JSON.stringify(header),
  );
  const bytes = new Uint8Array(8 + json.length + data);
  new DataView(bytes.buffer).setBigUint64(0, length ?? BigInt(json.length), true);
  bytes.set(json, 8);
  const path = `${folder}/crafted.safetensors`;
  Deno.writeFileSync(path, bytes);
  return path;
}

function entry(begin: number, end: number, shape: unknown = [2], dtype = "F32") {
  return { dtype, shape, data_offsets: [begin, end] };
}

Deno.test("open() says what is wrong with a file, naming file and tensor", async () => {
  const rejects = (
    path: string,
    type: ErrorConstructor,
    text: string,
  ) => assertRejects(() => SafetensorsFile.open(path), type, text);
  await rejects(`${folder}/missing`, Error, `missing": there is no such file`);
  await rejects(folder, Error, "it is a folder");
  Deno.writeFileSync(`${folder}/short`, new Uint8Array(5));
  await rejects(`${folder}/short`, SyntaxError, "it has 5 bytes");
  await rejects(craft({}, 0, 999_999_999_999n), RangeError, "header would be 999999999999 bytes");
  await rejects(craft({}, 0, 500n), RangeError, "header should end at byte 508, but the file ends");
  await rejects(craft("{not json"), SyntaxError, "header is not valid JSON");
  await rejects(craft("[1]"), SyntaxError, "not a JSON object");
  await rejects(craft({ w: { dtype: "F32" } }), SyntaxError, 'Cannot read "w" in');
  await rejects(craft({ w: entry(0, 8, [-2]) }, 8), SyntaxError, "header entry is");
  await rejects(
    craft({ w: entry(0, 8, [2], "constructor") }, 8),
    SyntaxError,
    'dtype "constructor"',
  );
  await rejects(
    craft({ w: entry(0, 12) }, 12),
    RangeError,
    "12 bytes, but F32 [2] takes 8",
  );
  await rejects(craft({ w: entry(0, 8) }, 4), RangeError, "ends at byte 8 of the data");
  await rejects(
    craft({ v: entry(0, 8), w: entry(4, 12) }, 12),
    RangeError,
    'read "w" in',
  );
  await rejects(craft({ v: entry(8, 16) }, 16), RangeError, "begins at byte 8 of the data");
  await rejects(craft({ w: entry(0, 8) }, 9), RangeError, "take 8 bytes, but 9 follow");
});

Deno.test("openCheckpoint() reads one file or its shards alike", async () => {
  const model = `${folder}/model`;
  await Deno.mkdir(model);
  await assertRejects(() => openCheckpoint(model), Error, "neither model.safetensors nor");
  await assertRejects(() => openCheckpoint(`${model}/no`), Error, "no such folder");
  const tensor = (value: number): TensorData => ({
    dtype: "F32",
    shape: [1],
    data: Float32Array.of(value),
  });
  await writeSafetensors(`${model}/one.safetensors`, new Map([["a", tensor(1)]]));
  await writeSafetensors(`${model}/two.safetensors`, new Map([["b", tensor(2)]]));
  const index = (map: unknown) =>
    Deno.writeTextFile(`${model}/model.safetensors.index.json`, JSON.stringify(map));
  await index({ weight_map: { a: "one.safetensors", b: "two.safetensors" } });
  {
    using source = await openCheckpoint(model);
    assertEquals([...source.entries.keys()], ["a", "b"]);
    assertEquals(await source.readFloats("b"), Float32Array.of(2));
    assertEquals(await source.read("a"), new Uint8Array(Float32Array.of(1).buffer));
    await assertRejects(() => source.read("c"), RangeError, 'Cannot read "c"');
  }
  await index({ weight_map: { a: "one.safetensors", c: "two.safetensors" } });
  await assertRejects(() => openCheckpoint(model), RangeError, '"two.safetensors" lacks "c"');
  await index({ weight_map: { a: "three.safetensors" } });
  await assertRejects(() => openCheckpoint(model), Error, "three.safetensors");
  await index({ weight_map: { a: "../one.safetensors" } });
  await assertRejects(() => openCheckpoint(model), SyntaxError, '"a" lies in "../one.safetensors"');
  await index({});
  await assertRejects(() => openCheckpoint(model), SyntaxError, "names no tensor");
  await writeSafetensors(`${model}/model.safetensors`, new Map([["whole", tensor(3)]]));
  using source = await openCheckpoint(model);
  assertEquals(await source.readFloats("whole"), Float32Array.of(3));
});
