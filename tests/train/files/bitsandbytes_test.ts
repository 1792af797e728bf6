import {
  isFourBit,
  readFourBit,
  type StoredFourBit,
  storeFourBit,
} from "../../../train/files/bitsandbytes.ts";
import {
  SafetensorsFile,
  type TensorData,
  writeSafetensors,
} from "../../../train/files/safetensors.ts";
import { dynamicMap } from "../../../kernels/quant/dynamic_map.ts";
import { assert, assertEquals, assertRejects } from "../../assert.ts";

const folder = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));
let written = 0;

async function withFile<T>(
  tensors: ReadonlyMap<string, TensorData>,
  body: (file: SafetensorsFile) => Promise<T>,
): Promise<T> {
  const path = `${folder}/${written++}.safetensors`;
  await writeSafetensors(path, tensors);
  using file = await SafetensorsFile.open(path);
  return await body(file);
}

const packed = Uint8Array.from({ length: 96 }, (_, i) => i);
/** 3 × 64 weights. */
const PLAIN: StoredFourBit = {
  bytes: { packed, scales: Float32Array.of(1, 0.5, 2) },
  shape: [3, 64],
  type: "fp4",
  blockSize: 64,
  dtype: "bfloat16",
};
const NESTED: StoredFourBit = {
  bytes: {
    packed,
    scales: {
      codes: Uint8Array.of(187, 45, 29),
      nestedAbsmax: Float32Array.of(1.5),
      offset: 0.25,
      map: dynamicMap(),
    },
  },
  shape: [3, 64],
  type: "nf4",
  blockSize: 64,
  dtype: "float32",
};
const STATE = "up.weight.quant_state.bitsandbytes__";

const textOf = (data: ArrayBufferView) => new TextDecoder().decode(data);

Deno.test("storeFourBit() names, shapes and state are bitsandbytes'", () => {
  const plain = storeFourBit("up.weight", PLAIN);
  assertEquals(
    [...plain].map(([name, { dtype, shape }]) => [name, dtype, shape]),
    [
      ["up.weight", "U8", [96, 1]],
      ["up.weight.absmax", "F32", [3]],
      ["up.weight.quant_map", "F32", [16]],
      [`${STATE}fp4`, "U8", [77]],
    ],
  );
  assertEquals(
    textOf(plain.get(`${STATE}fp4`)!.data),
    '{"quant_type": "fp4", "blocksize": 64, "dtype": "bfloat16", "shape": [3, 64]}',
  );
  const map = plain.get("up.weight.quant_map")!.data as Float32Array;
  assert(Object.is(map[8], 0), "FP4's second zero is stored without a sign");
  const nested = storeFourBit("up.weight", NESTED);
  assertEquals(
    textOf(nested.get(`${STATE}nf4`)!.data),
    '{"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [3, 64], ' +
      '"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.25}',
  );
});

Deno.test("storeFourBit() writes numbers as Python does", () => {
  // Each as json.dumps prints it.
  const cases: [number, string][] = [
    [1, "1.0"],
    [0, "0.0"],
    [-0.5, "-0.5"],
    [0.0001, "0.0001"],
    [0.00002, "2e-05"],
    [1.25e-7, "1.25e-07"],
    [3e16, "3e+16"],
    [123456789, "123456789.0"],
  ];
  for (const [offset, text] of cases) {
    const scales = { ...NESTED.bytes.scales as Exclude<typeof PLAIN.bytes.scales, Float32Array> };
    const bytes = { packed, scales: { ...scales, offset } };
    const { data } = storeFourBit("up.weight", { ...NESTED, bytes }).get(`${STATE}nf4`)!;
    assertEquals(textOf(data).split('"nested_offset": ')[1], `${text}}`);
  }
});

for (const [name, stored] of Object.entries({ plain: PLAIN, nested: NESTED })) {
  Deno.test(`readFourBit() reads back what storeFourBit() wrote: ${name} scales`, async () => {
    await withFile(storeFourBit("up.weight", stored), async (file) => {
      assertEquals(isFourBit(file, "up.weight"), true);
      assertEquals(isFourBit(file, "weight"), false);
      assertEquals(await readFourBit(file, "up.weight"), stored);
    });
  });
}

Deno.test("readFourBit() reads codes that are stored as another type", async () => {
  const tensors = storeFourBit("up.weight", PLAIN);
  tensors.set("up.weight", { dtype: "BF16", shape: [48, 1], data: packed });
  await withFile(
    tensors,
    async (file) => assertEquals(await readFourBit(file, "up.weight"), PLAIN),
  );
});

/** The state with some fields changed. */
function stateWith(changes: Record<string, unknown>): TensorData {
  const [, { data }] = [...storeFourBit("up.weight", NESTED)].at(-1)!;
  const bytes = new TextEncoder().encode(
    JSON.stringify({ ...JSON.parse(textOf(data)), ...changes }),
  );
  return { dtype: "U8", shape: [bytes.length], data: bytes };
}

const bytesOf = (length: number) => ({
  dtype: "U8",
  shape: [length],
  data: new Uint8Array(length),
});
const floatsOf = (...numbers: number[]) => ({
  dtype: "F32",
  shape: [numbers.length],
  data: Float32Array.from(numbers),
});

const FAULTS: [what: string, tensor: string, change: TensorData | null, message: string][] = [
  ["no scales", ".absmax", null, 'found no tensor "up.weight.absmax", wanted U8 [3]'],
  ["too few scales", ".absmax", bytesOf(2), 'found "up.weight.absmax" with U8 [2], wanted U8 [3]'],
  ["plain scales", ".absmax", floatsOf(1, 1, 1), "with F32 [3], wanted U8 [3]"],
  ["no nested scales", ".nested_absmax", null, 'found no tensor "up.weight.nested_absmax"'],
  ["two nested scales", ".nested_absmax", floatsOf(1, 2), "with F32 [2], wanted F32 [1]"],
  ["a NaN", ".nested_absmax", floatsOf(NaN), 'found NaN at 0 of "up.weight.nested_absmax"'],
  ["a short map", ".nested_quant_map", floatsOf(1), "wanted F32 [256]"],
  ["no table", ".quant_map", null, 'found no tensor "up.weight.quant_map", wanted F32 [16]'],
  [
    "another table",
    ".quant_map",
    floatsOf(...new Float32Array(16)),
    'found 0 at 0 of "up.weight.quant_map", wanted nf4\'s -1',
  ],
  ["no codes", "", null, 'found no tensor "up.weight", wanted U8 [96,1]'],
  ["too few codes", "", bytesOf(95), 'found "up.weight" with U8 [95], wanted U8 [96,1]'],
  ["two states", ".quant_state.bitsandbytes__fp4", bytesOf(2), "found 2 quantization states"],
  ["no JSON", ".quant_state.bitsandbytes__nf4", bytesOf(2), "found no JSON in"],
  [
    "another type",
    ".quant_state.bitsandbytes__nf4",
    stateWith({ quant_type: "fp4" }),
    'found "fp4" as "quant_type"',
  ],
  [
    "an odd block",
    ".quant_state.bitsandbytes__nf4",
    stateWith({ blocksize: 48 }),
    'found 48 as "blocksize" in',
  ],
  [
    "a shape of three",
    ".quant_state.bitsandbytes__nf4",
    stateWith({ shape: [1, 3, 64] }),
    'found [1,3,64] as "shape"',
  ],
  [
    "other nested blocks",
    ".quant_state.bitsandbytes__nf4",
    stateWith({ nested_blocksize: 128 }),
    'found 128 as "nested_blocksize"',
  ],
  [
    "no offset",
    ".quant_state.bitsandbytes__nf4",
    stateWith({ nested_offset: undefined }),
    'found "up.weight.absmax" with U8 [3], wanted F32 [3]',
  ],
];

for (const [what, suffix, change, message] of FAULTS) {
  Deno.test(`readFourBit() refuses ${what}`, async () => {
    const tensors = storeFourBit("up.weight", NESTED);
    if (change) tensors.set(`up.weight${suffix}`, change);
    else tensors.delete(`up.weight${suffix}`);
    await withFile(tensors, async (file) => {
      const error = await assertRejects(() => readFourBit(file, "up.weight"), RangeError, message);
      assert(error.message.startsWith('Cannot read the 4-bit weight "up.weight": found '));
    });
  });
}

Deno.test("a type that is not known is named", async () => {
  const tensors = storeFourBit("up.weight", PLAIN);
  const state = tensors.get(`${STATE}fp4`)!;
  tensors.delete(`${STATE}fp4`);
  tensors.set(`${STATE}int4`, state);
  await withFile(tensors, async (file) => {
    assertEquals(isFourBit(file, "up.weight"), true);
    await assertRejects(() => readFourBit(file, "up.weight"), RangeError, "bitsandbytes__int4");
  });
});
