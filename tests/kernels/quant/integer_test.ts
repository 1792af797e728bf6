import { tensor } from "../../../core/tensor.ts";
import { type PackedVariant, runPacked } from "../../../kernels/linear/packed_matmul.ts";
import { STREAM_ROWS } from "../../../kernels/linear/stream_product.ts";
import { matmulRef } from "../../../kernels/linear/matmul_ref.ts";
import { integerFromCodes } from "../../../kernels/quant/integer_codes.ts";
import {
  type IntegerOptions,
  type IntegerType,
  quantizeInteger,
} from "../../../kernels/quant/integer.ts";
import { asymmetricRef, symmetricRef } from "../../../kernels/quant/integer_ref.ts";
import { roundHalfEven } from "../../../kernels/quant/rounding.ts";
import { SafetensorsFile } from "../../../train/files/safetensors.ts";
import { assert, assertEquals, assertRelativeError, assertThrows } from "../../assert.ts";
import { device, randomNumbers } from "../../device.ts";
import { checkOp } from "../../gradient.ts";

const BITS = { int8: 8, int4: 4, int3: 3, int2: 2 } as const;

/** Group by group, row by row, through the reference. */
function reference(data: Float32Array, columns: number, type: IntegerType, size: number): number[] {
  const out: number[] = [];
  for (let row = 0; row < data.length / columns; row++) {
    for (let from = 0; from < columns; from += size) {
      const group = data.subarray(
        row * columns + from,
        row * columns + Math.min(columns, from + size),
      );
      out.push(...(type === "int8" ? symmetricRef(group) : asymmetricRef(group, BITS[type])));
    }
  }
  return out;
}

Deno.test("roundHalfEven() sends ties to the even number", () => {
  assertEquals([0.5, 1.5, 2.5, -0.5, -1.5, 2.4, -2.6].map((x) => roundHalfEven(x) + 0), [
    0,
    2,
    2,
    0,
    -2,
    2,
    -3,
  ]);
});

Deno.test("roundHalfEven() knows numbers beyond which there are only halves, or whole ones", () => {
  const half = 2 ** 51 + 0.5;
  const pairs = [
    ...[[half, 2 ** 51], [half + 1, 2 ** 51 + 2], [-half, -(2 ** 51)], [half - 1, 2 ** 51]],
    ...[[2 ** 52 + 1, 2 ** 52 + 1], [1 - 2 ** 53, 1 - 2 ** 53], [Infinity, Infinity]],
    ...[[-Infinity, -Infinity], [NaN, NaN]],
  ];
  for (const [x, wanted] of pairs) assertEquals(roundHalfEven(x), wanted);
});

Deno.test("quantizeInteger() equals the reference to the last bit, ragged sizes included", async () => {
  for (const [rows, columns] of [[1, 1], [3, 7], [16, 64], [5, 130], [3, 40]] as const) {
    const data = randomNumbers(rows * columns, rows * columns);
    for (
      const [type, groupSize] of [
        ["int8", undefined],
        ["int8", 32],
        ["int4", 64],
        ["int4", 32],
        ["int3", 64],
        ["int3", 24],
        ["int3", 7],
        ["int2", 64],
        ["int2", 16],
      ] as const
    ) {
      const q = quantizeInteger(device, data, [rows, columns], { type, groupSize });
      const wanted = reference(data, columns, type, groupSize ?? columns);
      assertEquals([...await q.dequantize().read()], wanted);
    }
  }
});

Deno.test("quantizeInteger() takes every range, for a tensor, a channel and a group", async () => {
  const [rows, columns] = [6, 50];
  const data = randomNumbers(rows * columns, 9);
  // Not around 0, so that symmetric and asymmetric ranges differ.
  for (let i = 0; i < data.length; i++) data[i] += 0.7;
  const { length } = data;
  for (const type of ["int8", "int4", "int3", "int2"] as const) {
    for (const range of ["symmetric", "symmetric-full", "asymmetric"] as const) {
      const by = (part: Float32Array) =>
        range === "asymmetric"
          ? asymmetricRef(part, BITS[type])
          : symmetricRef(part, BITS[type], range === "symmetric-full");
      const parts = (size: number) =>
        Array.from(
          { length: length / size },
          (_, i) => by(data.subarray(i * size, i * size + size)),
        )
          .flat();
      const made = async (options: { per?: "tensor" | "channel"; groupSize?: number }) => {
        const q = quantizeInteger(device, data, [rows, columns], { type, range, ...options });
        const decoded = [...await q.dequantize().read()];
        const x = tensor(device, randomNumbers(2 * columns, 4), [2, columns]);
        const product = await q.multiply(x).read() as Float32Array;
        const dims = { m: 2, n: rows, k: columns, transposeB: true };
        const wanted = matmulRef(await x.read() as Float32Array, decoded, dims);
        assertRelativeError(product, wanted, 1e-5, `${type} ${range}`);
        return decoded;
      };
      assertEquals(await made({ per: "tensor" }), by(data), `${type} ${range} tensor`);
      assertEquals(await made({ per: "channel" }), parts(columns), `${type} ${range} channel`);
      assertEquals(await made({ groupSize: 10 }), parts(10), `${type} ${range} group`);
    }
  }
  // What a file or a script without types may say.
  for (
    const wrong of [{ type: "int5" }, { type: "int4", range: "sym" }, { type: "int8", per: "row" }]
  ) {
    assertThrows(
      () => quantizeInteger(device, data, [rows, columns], wrong as IntegerOptions),
      RangeError,
      'wanted "',
    );
  }
  const both = { type: "int8", per: "tensor", groupSize: 32 } as const;
  assertThrows(
    () => quantizeInteger(device, data, [rows, columns], both),
    TypeError,
    "one of them",
  );
});

Deno.test("quantizeInteger() has the scales and zero points of PyTorch's observers", async () => {
  const golden = new URL("../../golden/torch_quant.safetensors", import.meta.url).pathname;
  using file = await SafetensorsFile.open(golden);
  const x = await file.readFloats("x");
  const cases = [
    ["minmax_affine_u8", "tensor", "asymmetric", 0],
    ["minmax_symmetric_s8", "tensor", "symmetric-full", 128],
    ["channel_affine_u8", "channel", "asymmetric", 0],
    ["channel_symmetric_s8", "channel", "symmetric-full", 128],
  ] as const;
  for (const [name, per, range, shift] of cases) {
    const scales = await file.readFloats(`${name}.scale`);
    const zeros = new Int32Array((await file.read(`${name}.zero_point`)).buffer);
    const q = quantizeInteger(device, x, [64, 96], { type: "int8", per, range });
    const found = await q.scales.read() as Float32Array;
    for (let row = 0; row < 64; row++) {
      const at = scales.length === 1 ? 0 : row;
      assert(Math.abs(found[2 * row] / scales[at] - 1) <= 1e-6, `${name}, row ${row}`);
      assertEquals(found[2 * row + 1] - shift, zeros[at], `${name}, row ${row}`);
    }
  }
});

Deno.test("quantizeInteger() keeps zero and rows of zeros, and a range on one side", async () => {
  const data = Float32Array.from([0, 0, 0, 0, 1, 2, 0, 3, -5, -1, 0, -2]);
  for (const type of ["int8", "int4", "int3", "int2"] as const) {
    const q = quantizeInteger(device, data, [3, 4], { type });
    const back = await q.dequantize().read();
    assertEquals([0, 1, 2, 3, 6, 10].map((i) => back[i] + 0), [0, 0, 0, 0, 0, 0]);
    const step = 5 / (2 ** Math.min(4, BITS[type]) - 1);
    back.forEach((value, i) => assert(Math.abs(value - data[i]) <= step));
  }
});

Deno.test("a product with integers and its gradient are those of the decoded weight", async () => {
  const [m, n, k] = [5, 12, 40];
  const data = randomNumbers(n * k, 3);
  for (const type of ["int8", "int4", "int3", "int2"] as const) {
    const w = quantizeInteger(device, data, [n, k], { type, groupSize: 16 });
    const dense = Array.from(await w.dequantize().read());
    await checkOp(
      [{ data: randomNumbers(m * k, 4), shape: [m, k] }],
      (x) => w.multiply(x),
      (x) => matmulRef(x, dense, { m, n, k, transposeB: true }),
    );
  }
});

Deno.test("products with integers match the reference in every variant, forward and backward", async () => {
  // Tiles once for each type; groups of 48 and 24 are no powers of two, and zero points come with int4.
  for (
    const [type, groupSize, m, n, k] of [
      ["int8", undefined, 20, 36, 72],
      ["int8", 24, 2, 36, 72],
      ["int4", 48, 20, 36, 96],
      ["int4", undefined, 1, 12, 640],
      ["int4", 32, 4, 17, 96],
      ["int8", 16, 3, 12, 48],
      // The last group is shorter, but of whole texels.
      ["int8", 64, 2, 9, 80],
      ["int4", 64, 4, 9, 96],
      // Units of 16 codes and of 8, rows that end within a word, and whole texels.
      ["int3", 24, 20, 36, 72],
      ["int3", 48, 2, 17, 96],
      ["int3", 24, 1, 7, 72],
      ["int3", 64, 4, 9, 96],
      ["int3", undefined, 3, 5, 104],
      ["int2", 24, 20, 36, 72],
      ["int2", 32, 1, 12, 96],
      ["int2", 128, 2, 9, 192],
      ["int2", 8, 4, 9, 40],
      ["int2", 64, 3, 12, 128],
    ] as const
  ) {
    // The last ones' zeros are neither the middle nor whole.
    const w = groupSize === 16
      ? integerFromCodes(device, [n, k], {
        type,
        groupSize,
        codes: Uint8Array.from({ length: n * k }, (_, i) => i * 37 % 256),
        scales: Float32Array.from({ length: 2 * n * k / groupSize }, (_, i) => 0.1 + i % 9),
      })
      : quantizeInteger(device, randomNumbers(n * k, 5), [n, k], { type, groupSize });
    const packed = w.asFactor();
    const dense = await w.dequantize().read();
    const x = randomNumbers(m * k, 6);
    const dy = randomNumbers(m * n, 7);
    const y = matmulRef(x, dense, { m, n, k, transposeB: true });
    const dx = matmulRef(dy, dense, { m, n: k, k: n });
    const variants: PackedVariant[] = [m > STREAM_ROWS ? "tiles" : "stream", "decode"];
    if (device.adapter.type === "software" && packed.texels!.fits(m)) variants.push("texels");
    for (const variant of variants) {
      const what = `${variant} ${type} ${groupSize} ${m}x${n}x${k}`;
      const out = runPacked(tensor(device, x, [m, k]), packed, true, variant);
      assertRelativeError(await out.read(), y, 1e-6, what);
      if (variant === "stream" || variant === "texels") continue;
      const back = runPacked(tensor(device, dy, [m, n]), packed, false, variant);
      assertRelativeError(await back.read(), dx, 1e-6, `${what} backward`);
    }
  }
});

Deno.test("integers count their bytes", () => {
  const data = randomNumbers(64 * 128, 1);
  assertEquals(quantizeInteger(device, data, [64, 128], { type: "int8" }).bytes, 64 * 128 + 4 * 64);
  assertEquals(
    quantizeInteger(device, data, [64, 128], { type: "int4" }).bytes,
    64 * 64 + 4.5 * 128,
  );
  const [int3, int2] = (["int3", "int2"] as const).map((type) =>
    quantizeInteger(device, data, [64, 128], { type }).bytes
  );
  assertEquals([int3, int2], [64 * 48 + 4.375 * 128, 64 * 32 + 4.25 * 128]);
  const zeros = (...all: number[]) =>
    integerFromCodes(device, [2, 8], {
      type: "int3",
      groupSize: 8,
      codes: new Uint8Array(16),
      scales: Float32Array.from(all.flatMap((zero) => [1, zero])),
    });
  // None, three bits each, half a float, a float.
  const all = [zeros(4, 4), zeros(4, 7), zeros(4, 2.5), zeros(2.5, 0.1)];
  assertEquals(all.map(({ bytes }) => bytes), [14, 15, 18, 22]);
});

Deno.test("quantizeInteger() says what it cannot quantize", () => {
  const data = randomNumbers(16, 1);
  const options = { type: "int8" } as const;
  assertThrows(() => quantizeInteger(device, data, [4, 5], options), RangeError, "16 numbers");
  assertThrows(
    () => quantizeInteger(device, data, [4, 4], { type: "int4", groupSize: 0 }),
    RangeError,
    "groups of 0",
  );
  data[6] = NaN;
  assertThrows(
    () => quantizeInteger(device, data, [4, 4], options),
    RangeError,
    "element 6 is NaN",
  );
});
