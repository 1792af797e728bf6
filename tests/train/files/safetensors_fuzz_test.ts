import fc from "fast-check";
import {
  openCheckpoint,
  SafetensorsFile,
  type TensorSource,
} from "../../../train/files/safetensors.ts";
import { assert, assertEquals } from "../../assert.ts";
import { peakDuring } from "../../peak_memory.ts";

/** Cases of each kind. */
const RUNS = 5000;

/** Every case must be over after so long, in ms. */
const LIMIT = 1000;

/** The most memory that a case may take, in bytes. */
const MEMORY = 100e6;

const folder = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));
const path = `${folder}/fuzzed.safetensors`;

/** A file of this header and so many bytes of data. */
function file(header: string | Uint8Array, data = 0, length?: bigint): Uint8Array<ArrayBuffer> {
  const text = typeof header === "string" ? new TextEncoder().encode(header) : header;
  const bytes = new Uint8Array(8 + text.length + data);
  new DataView(bytes.buffer).setBigUint64(0, length ?? BigInt(text.length), true);
  bytes.set(text, 8);
  return bytes;
}

const SEED = file(
  JSON.stringify({
    __metadata__: { format: "pt" },
    "a.weight": { dtype: "F32", shape: [2, 4], data_offsets: [0, 32] },
    "b.weight": { dtype: "BF16", shape: [3], data_offsets: [32, 38] },
    "c.weight": { dtype: "U8", shape: [], data_offsets: [38, 39] },
    "d.weight": { dtype: "F16", shape: [0, 7], data_offsets: [39, 39] },
  }).padEnd(320),
  39,
);

/** Opens and reads everything: this works, or ends in an error that nibble wrote, in time. */
async function isHandled(open: () => Promise<TensorSource>): Promise<"read" | "refused"> {
  const start = performance.now();
  try {
    using source = await open();
    for (const [name, { dtype, shape, begin, end }] of source.entries) {
      assertEquals((await source.read(name)).length, end - begin);
      const size = shape.reduce((product, length) => product * length, 1);
      if (/^B?F(16|32|64)$/.test(dtype)) assertEquals((await source.readFloats(name)).length, size);
    }
    return "read";
  } catch (error) {
    const { message } = error as Error;
    assert(/^Cannot (read|open) .{10}/s.test(message), `An error of the engine: ${error}`);
    assert(message.length < 1000, `A message of ${message.length} characters`);
    return "refused";
  } finally {
    const time = performance.now() - start;
    assert(time < LIMIT, `${time} ms, at most ${LIMIT} are allowed`);
  }
}

function isFileHandled(bytes: Uint8Array): Promise<"read" | "refused"> {
  Deno.writeFileSync(path, bytes);
  return isHandled(() => SafetensorsFile.open(path));
}

const place = fc.oneof(fc.nat(SEED.length - 1), fc.nat(8));
const number = fc.constantFrom(
  "0",
  "1",
  "-1",
  "1.5",
  "1e3",
  "9007199254740991",
  "1152921504606846976",
);
const mutation = fc.oneof(
  fc.record({ kind: fc.constant("bit"), at: place, value: fc.nat(7) }),
  fc.record({ kind: fc.constant("byte"), at: place, value: fc.nat(255) }),
  fc.record({ kind: fc.constant("cut"), at: place, value: fc.nat(64) }),
  fc.record({ kind: fc.constant("repeat"), at: place, value: fc.nat(64) }),
  fc.record({ kind: fc.constant("end"), at: place, value: fc.constant(0) }),
  fc.record({ kind: fc.constant("number"), at: place, value: number }),
  fc.record({ kind: fc.constant("swap"), at: place, value: fc.constantFrom(...'[]{},:"\\ ') }),
);
type Mutation = typeof mutation extends fc.Arbitrary<infer T> ? T : never;

function mutate(bytes: number[], { kind, at, value }: Mutation): void {
  const [from, count] = [Math.min(at, bytes.length), Number(value)];
  if (kind === "bit") bytes[from] ^= 1 << count;
  else if (kind === "byte") bytes[from] = count;
  else if (kind === "cut") bytes.splice(from, count);
  else if (kind === "repeat") bytes.splice(from, 0, ...bytes.slice(from, from + count));
  else if (kind === "end") bytes.length = from;
  else if (kind === "swap") bytes[from] = String(value).charCodeAt(0);
  else {
    // In place of the next number of the header, whose length stays the same if there are blanks for it.
    const text = String.fromCharCode(...bytes);
    const next = /\d+/g;
    next.lastIndex = Math.max(8, from);
    const found = next.exec(text);
    if (found) {
      bytes.splice(found.index, found[0].length, ...new TextEncoder().encode(String(value)));
    }
  }
}

Deno.test(`${RUNS} mutated files are read, or refused with a reason`, async () => {
  const count = { read: 0, refused: 0 };
  await fc.assert(
    fc.asyncProperty(fc.array(mutation, { minLength: 1, maxLength: 4 }), async (mutations) => {
      const bytes = Array.from(SEED);
      for (const own of mutations) mutate(bytes, own);
      count[await isFileHandled(Uint8Array.from(bytes))]++;
    }),
    { numRuns: RUNS, seed: 7 },
  );
  // The mutations must not all hit what is checked first.
  assert(count.read > RUNS / 100 && count.refused > RUNS / 2, JSON.stringify(count));
});

/** A value with its odd kinds, as text. */
const oddJson = fc.oneof(
  fc.json({ maxDepth: 4 }),
  fc.constantFrom(
    "",
    "{",
    "]",
    "nul",
    '"\ud800"',
    "[".repeat(5000),
    '{"a":'.repeat(300),
    "NaN",
    "01",
  ),
);
const odd = (wanted: fc.Arbitrary<string>) =>
  fc.oneof({ arbitrary: wanted, weight: 30 }, { arbitrary: oddJson, weight: 1 });
const dtype = fc.constantFrom(
  "F32",
  "F16",
  "BF16",
  "F64",
  "U8",
  "I64",
  "F4",
  "F6_E2M3",
  "BOOL",
  "f32",
  "__proto__",
);
const length = fc.oneof(
  { arbitrary: fc.nat(4), weight: 20 },
  {
    arbitrary: fc.constantFrom(2 ** 31, 2 ** 32, 2 ** 53 - 1, 2 ** 53, 2 ** 60, -1, 0.5),
    weight: 1,
  },
);
const entry = fc.record({
  name: fc.oneof(
    fc.constantFrom("a", "b", "__proto__", "constructor", "", "é", "0", "__metadata__"),
    fc.string(),
  ),
  dtype,
  shape: fc.array(length, { maxLength: 4 }),
  /** How far it begins from where it should, and how much longer it is. */
  shift: fc.oneof({ arbitrary: fc.constant(0), weight: 12 }, {
    arbitrary: fc.integer({ min: -9, max: 9 }),
    weight: 1,
  }),
  longer: fc.oneof({ arbitrary: fc.constant(0), weight: 12 }, {
    arbitrary: fc.integer({ min: -9, max: 9 }),
    weight: 1,
  }),
  whole: fc.oneof({ arbitrary: fc.constant(null), weight: 20 }, { arbitrary: oddJson, weight: 1 }),
  field: odd(fc.constant("")),
});
const made = fc.record({
  entries: fc.array(entry, { maxLength: 4 }),
  metadata: fc.oneof({ arbitrary: fc.constant(null), weight: 4 }, {
    arbitrary: oddJson,
    weight: 1,
  }),
  reversed: fc.boolean(),
  spare: fc.oneof({ arbitrary: fc.constant(0), weight: 12 }, {
    arbitrary: fc.integer({ min: -3, max: 3 }),
    weight: 1,
  }),
  hugeLength: fc.oneof(
    { arbitrary: fc.constant(undefined), weight: 30 },
    {
      arbitrary: fc.constantFrom(
        2n ** 24n,
        2n ** 24n + 1n,
        2n ** 31n,
        2n ** 60n,
        2n ** 64n - 1n,
        0n,
        1n,
      ),
      weight: 1,
    },
  ),
});

const BITS: Record<string, number> = {
  F16: 16,
  BF16: 16,
  F32: 32,
  F64: 64,
  I64: 64,
  F4: 4,
  F6_E2M3: 6,
};

Deno.test(`${RUNS} made headers are read, or refused with a reason`, async () => {
  const count = { read: 0, refused: 0 };
  await fc.assert(
    fc.asyncProperty(made, async ({ entries, metadata, reversed, spare, hugeLength }) => {
      let at = 0;
      const fields = entries.map(({ name, dtype, shape, shift, longer, whole, field }) => {
        const bytes = shape.reduce((product, own) => product * own, BITS[dtype] ?? 8) / 8;
        const offsets = [at + shift, at += bytes + shift + longer];
        const extra = field === "" ? "" : `,"data_offsets":${field}`;
        const value = `{"dtype":${JSON.stringify(dtype)},"shape":${JSON.stringify(shape)},` +
          `"data_offsets":${JSON.stringify(offsets)}${extra}}`;
        return `${JSON.stringify(name)}:${whole ?? value}`;
      });
      if (metadata !== null) fields.push(`"__metadata__":${metadata}`);
      if (reversed) fields.reverse();
      const data = at >= 0 && at < 1e5 ? Math.max(0, Math.ceil(at) + spare) : 0;
      count[await isFileHandled(file(`{${fields.join(",")}}`, data, hugeLength))]++;
    }),
    { numRuns: RUNS, seed: 8 },
  );
  assert(count.read > RUNS / 20 && count.refused > RUNS / 3, JSON.stringify(count));
});

Deno.test("headers with a key twice are refused, whatever the values", async () => {
  const value = '{"dtype":"U8","shape":[1],"data_offsets":[0,1]}';
  for (
    const text of [
      `{"w":${value},"w":${value}}`,
      `{"w":${value},"\\u0077":${value}}`,
      `{"w":{"dtype":"F32",${value.slice(1)}}`,
      `{"__metadata__":{"a":"1","a":"2"},"w":${value}}`,
    ]
  ) {
    Deno.writeFileSync(path, file(text, 1));
    const error = await SafetensorsFile.open(path).then(() => null, (error) => error);
    assert(/found "\w+" twice, wanted each key once/.test(error?.message), `${text}: ${error}`);
  }
});

/** As much as a header may have. */
const LONGEST = 1 << 24;

Deno.test("headers made to take memory and time take neither", async () => {
  const empty = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}';
  const fill = (begin: string, part: (i: number) => string) => {
    const parts = [begin];
    for (let length = begin.length, i = 0; length < LONGEST - 100; i++) {
      parts.push(part(i));
      length += parts.at(-1)!.length;
    }
    return new TextEncoder().encode(parts.join("").slice(0, LONGEST - 1) + "}");
  };
  const bombs: Record<string, () => Uint8Array> = {
    "arrays": () => fill("", () => "["),
    "arrays in a tensor": () => fill('{"w":', () => "["),
    "objects": () => fill("", () => '{"a":'),
    "numbers": () => fill('{"a":0', (i) => `,"${i}":0`),
    "a shape": () => fill('{"a":{"dtype":"U8","shape":[1', () => ",1"),
    "a name": () => fill('{"', () => "x"),
    "a dtype": () => fill('{"a":{"dtype":"', () => "x"),
    "metadata": () => fill('{"__metadata__":{"a":""', (i) => `,"${i}":""`),
    "blanks": () => fill("", () => "    "),
    "backslashes": () => fill('{"', () => "\\\\"),
    "tensors": () => fill(`{"a":${empty}`, (i) => `,"${i}":${empty}`),
    "broken UTF-8": () => new Uint8Array(LONGEST).fill(0xff),
  };
  for (const [name, make] of Object.entries(bombs)) {
    Deno.writeFileSync(path, file(make()));
    const { peak, result } = await peakDuring(() => isHandled(() => SafetensorsFile.open(path)));
    assertEquals(result, "refused", name);
    assert(peak === null || peak < MEMORY, `${name}: ${peak} bytes`);
  }
  // A length that the file does not have must not be allocated; and a sparse file can have any.
  Deno.writeFileSync(path, file("{}", 0, BigInt(LONGEST)));
  const { peak } = await peakDuring(() => isHandled(() => SafetensorsFile.open(path)));
  assert(peak === null || peak < 4e6, `${peak} bytes for a header that is not there`);
  const tebi = 2 ** 40;
  Deno.writeFileSync(
    path,
    file(`{"w":{"dtype":"U8","shape":[${tebi}],"data_offsets":[0,${tebi}]}}`),
  );
  Deno.truncateSync(path, Deno.statSync(path).size + tebi);
  assertEquals(await isHandled(() => SafetensorsFile.open(path)), "refused");
  Deno.removeSync(path);
});

const shard = fc.oneof(
  { arbitrary: fc.constantFrom('"one.safetensors"', '"two.safetensors"'), weight: 8 },
  {
    arbitrary: fc.oneof(
      fc.constantFrom(
        "../model/one.safetensors",
        "/etc/passwd",
        "a/../one.safetensors",
        "..",
        ".",
        "",
      )
        .map((name) => JSON.stringify(name)),
      fc.constantFrom(
        "..\\one.safetensors",
        "C:one",
        "one.safetensors\0",
        "x".repeat(3000),
        "fuzzed",
      )
        .map((name) => JSON.stringify(name)),
      fc.constant('"model.safetensors.index.json"'), // the index itself
      fc.constant('"folder"'),
      fc.string().map((name) => JSON.stringify(name)),
      oddJson,
    ),
    weight: 1,
  },
);
const index = fc.record({
  map: fc.array(fc.tuple(fc.constantFrom("a", "b", "c", "__proto__", "\\u0061"), shard), {
    maxLength: 3,
  }),
  whole: fc.oneof({ arbitrary: fc.constant(null), weight: 20 }, { arbitrary: oddJson, weight: 1 }),
  cut: fc.oneof({ arbitrary: fc.constant(1000), weight: 20 }, { arbitrary: fc.nat(60), weight: 1 }),
});

Deno.test(`${RUNS} shard indexes are read, or refused with a reason, and lead nowhere else`, async () => {
  const model = `${folder}/model`;
  Deno.mkdirSync(`${model}/folder`, { recursive: true });
  const value = '{"dtype":"U8","shape":[1],"data_offsets":[0,1]}';
  Deno.writeFileSync(`${model}/one.safetensors`, file(`{"a":${value}}`, 1));
  Deno.writeFileSync(`${model}/two.safetensors`, file(`{"b":${value}}`, 1));
  const count = { read: 0, refused: 0 };
  await fc.assert(
    fc.asyncProperty(index, async ({ map, whole, cut }) => {
      const weights = map.map(([tensor, file]) => `"${tensor}":${file}`).join(",");
      const text = whole ?? `{"metadata":{},"weight_map":{${weights}}}`;
      Deno.writeTextFileSync(`${model}/model.safetensors.index.json`, text.slice(0, cut * 10));
      count[await isHandled(() => openCheckpoint(model))]++;
    }),
    { numRuns: RUNS, seed: 9 },
  );
  assert(count.read > RUNS / 20 && count.refused > RUNS / 2, JSON.stringify(count));
});
