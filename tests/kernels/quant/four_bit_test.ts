import { tensor } from "../../../core/tensor.ts";
import { type PackedVariant, runPacked } from "../../../kernels/linear/packed_matmul.ts";
import { STREAM_ROWS } from "../../../kernels/linear/stream_product.ts";
import { matmulRef } from "../../../kernels/linear/matmul_ref.ts";
import { doubleQuantize, nestedToAbsmax } from "../../../kernels/quant/double_quant.ts";
import { dynamicMap } from "../../../kernels/quant/dynamic_map.ts";
import { absmaxOf, fourBitFromBytes } from "../../../kernels/quant/four_bit.ts";
import { quantizeFourBit } from "../../../kernels/quant/four_bit_quantize.ts";
import { dequantizeFourBitRef, quantizeFourBitRef } from "../../../kernels/quant/four_bit_ref.ts";
import { FP4_TABLE, thresholdsOf } from "../../../kernels/quant/tables.ts";
import {
  assert,
  assertAllClose,
  assertEquals,
  assertRejects,
  assertRelativeError,
  assertThrows,
} from "../../assert.ts";
import { device, randomNumbers, randomTensor } from "../../device.ts";
import { checkOp } from "../../gradient.ts";

const hex = (bytes: Uint8Array) => bytes.toHex();

Deno.test("dynamicMap() is bitsandbytes' map to the last bit", async () => {
  const digest = await crypto.subtle.digest("SHA-256", new Uint8Array(dynamicMap().slice().buffer));
  assertEquals(
    hex(new Uint8Array(digest)),
    "e732639a65f497b4ad684bb166a4467708255edd5207757de8b8f0c7e1fda89c",
  );
});

Deno.test("quantizeFourBit() packs the published vectors", async () => {
  const x = tensor(device, Float32Array.from({ length: 64 }, (_, i) => (2 * i - 63) / 63), [1, 64]);
  const expected = {
    nf4: "00000111111112222233344445556667788899aaabbbccccddddeeeeeeefffff",
    fp4: "bbbbbbaaaaaaaadddddccccffeeee99911166667744445555522222222333333",
  } as const;
  for (const type of ["nf4", "fp4"] as const) {
    const bytes = await (await quantizeFourBit(x, { type })).toBytes();
    assertEquals(hex(bytes.packed), expected[type]);
    assertEquals(Array.from(absmaxOf(bytes)), [1]);
  }
});

Deno.test("quantizeFourBit() gives a value on a threshold the lower code", async () => {
  const { thresholds } = thresholdsOf("nf4");
  const x = new Float32Array(64);
  x.set(thresholds);
  x[63] = 1;
  const { packed } = await (await quantizeFourBit(tensor(device, x, [1, 64]))).toBytes();
  assertEquals(hex(packed).slice(0, 15), "0123456789abcde");
});

Deno.test("quantizeFourBit() equals the reference bit for bit, for all types, blocks and ragged sizes", async () => {
  for (const [rows, columns] of [[1, 64], [16, 64], [7, 13], [33, 100], [3, 4100], [64, 576]]) {
    // Magnitudes over many powers of two, so that reciprocals of all mantissas are tried.
    const data = randomNumbers(rows * columns, rows + columns)
      .map((value, i) => value * 2 ** ((Math.floor(i / 32) % 40) - 20));
    for (const type of ["nf4", "fp4"] as const) {
      for (const blockSize of [32, 64, 128, 4096]) {
        const expected = quantizeFourBitRef(data, type, blockSize);
        const q = await quantizeFourBit(tensor(device, data, [rows, columns]), { type, blockSize });
        const what = `${type} ${rows}x${columns} block ${blockSize}`;
        const bytes = await q.toBytes();
        assertEquals(absmaxOf(bytes), expected.absmax, what);
        assertEquals(hex(bytes.packed), hex(expected.packed), what);
        assertEquals(
          await q.dequantize().read(),
          dequantizeFourBitRef(expected.packed, expected.absmax, type, blockSize, data.length),
          what,
        );
      }
    }
  }
});

Deno.test("doubleQuantize() gives the published vector", () => {
  const scales = doubleQuantize(new Float32Array([1, 0.5, 0.25, 2, 0.75]));
  assertEquals(scales.offset, 0.8999999761581421);
  assertEquals(Array.from(scales.nestedAbsmax), [1.100000023841858]);
  assertEquals(Array.from(scales.codes), [187, 45, 29, 255, 61]);
  assertEquals(Array.from(nestedToAbsmax(scales)), [
    0.9991718530654907,
    0.5038281083106995,
    0.2563280463218689,
    2.0,
    0.7513281106948853,
  ]);
  const single = doubleQuantize(new Float32Array([0.3]));
  assertEquals(Array.from(nestedToAbsmax(single)), [Math.fround(0.3)]);
});

Deno.test("quantizeFourBit() with double quantization dequantizes to the exact product and sum", async () => {
  const data = randomNumbers(64 * 1000, 5);
  const q = await quantizeFourBit(tensor(device, data, [64, 1000]), { doubleQuant: true });
  assertEquals(q.scheme, "nf4-dq");
  assertEquals(q.bytes, 32_000 + 1000 + 4 * 4 + 4);
  const bytes = await q.toBytes();
  const plain = quantizeFourBitRef(data, "nf4", 64);
  const nested = doubleQuantize(plain.absmax);
  assertEquals(bytes, { packed: plain.packed, scales: nested });
  const expected = dequantizeFourBitRef(
    plain.packed,
    nestedToAbsmax(nested),
    "nf4",
    64,
    data.length,
  );
  assertEquals(await q.dequantize().read(), expected);
  assertEquals(await q.withPlainScales().weight.dequantize().read(), expected);
  const again = fourBitFromBytes(device, bytes, [64, 1000], { type: "nf4", blockSize: 64 });
  assertEquals(await again.dequantize().read(), expected);
});

Deno.test("quantizeFourBit() keeps a block of zeros zero, also with double quantization", async () => {
  const data = randomNumbers(64 * 8, 6);
  data.fill(0, 64, 128);
  for (const type of ["nf4", "fp4"] as const) {
    for (const doubleQuant of [false, true]) {
      const q = await quantizeFourBit(tensor(device, data, [8, 64]), { type, doubleQuant });
      const back = await q.dequantize().read();
      assert(back.subarray(64, 128).every((value) => value === 0), `${type} ${doubleQuant}`);
    }
  }
});

Deno.test("quantizeFourBit() has the error that the types are known for", async () => {
  const data = randomNumbers(1 << 17, 7);
  const x = tensor(device, data, [256, 512]);
  // Relative root mean square errors on normal data, measured over 2^20 samples, ± 1 %.
  for (
    const [type, blockSize, expected] of [
      ["nf4", 32, 0.08726],
      ["nf4", 64, 0.09192],
      ["nf4", 128, 0.09564],
      ["fp4", 64, 0.12194],
    ] as const
  ) {
    const back = await (await quantizeFourBit(x, { type, blockSize })).dequantize().read();
    let error = 0;
    let power = 0;
    data.forEach((value, i) => {
      error += (value - back[i]) ** 2;
      power += value * value;
    });
    assertAllClose([Math.sqrt(error / power)], [expected], { relative: 0.01, absolute: 0 });
  }
});

Deno.test("quantizeFourBit() refuses NaN, infinity, and odd block sizes", async () => {
  for (const bad of [NaN, Infinity, -Infinity]) {
    const data = randomNumbers(256, 8);
    data[130] = bad;
    await assertRejects(
      () => quantizeFourBit(tensor(device, data, [4, 64])),
      RangeError,
      "block 2 (elements 128 to 191) holds NaN or infinity",
    );
  }
  await assertRejects(
    () => quantizeFourBit(randomTensor([4, 64], 1), { blockSize: 48 }),
    RangeError,
    "Cannot quantize in blocks of 48",
  );
  const wrong = { type: "nf5" } as unknown as { type: "nf4" };
  await assertRejects(
    () => quantizeFourBit(randomTensor([4, 64], 1), wrong),
    RangeError,
    '"nf5" in 4 bits: wanted "nf4" or "fp4"',
  );
});

Deno.test("fourBitFromBytes() refuses bytes that do not fit", () => {
  const bytes = { packed: new Uint8Array(10), scales: new Float32Array(1) };
  assertThrows(
    () => fourBitFromBytes(device, bytes, [8, 8], { type: "nf4", blockSize: 64 }),
    RangeError,
    "found 10 bytes and 1 scales, wanted 32 and 1",
  );
});

// Tile kernels take a second or two each to compile on two cores, so each scheme has one size for them, and the sizes cover few and
// many rows, edges, and a K that is ragged (72, 40, 24, 136) or not, in both directions.
const TILED: Record<string, number[]> = {
  "nf4": [1, 24, 64],
  "nf4-dq": [20, 64, 72],
  "fp4": [65, 136, 32],
  "fp4-dq": [3, 40, 96],
};

Deno.test("products match the reference in every variant, forward and backward", async () => {
  const variants: PackedVariant[] = ["stream", "tiles", "decode"];
  if (device.adapter.type === "software") variants.push("texels");
  for (const [m, n, k] of Object.values(TILED)) {
    for (const type of ["nf4", "fp4"] as const) {
      for (const doubleQuant of [false, true]) {
        const w = await quantizeFourBit(randomTensor([n, k], 9), { type, doubleQuant });
        const packed = w.asFactor();
        const dense = await w.dequantize().read();
        const x = randomNumbers(m * k, 10);
        const dy = randomNumbers(m * n, 11);
        const add = randomNumbers(m * n, 12);
        const y = matmulRef(x, dense, { m, n, k, transposeB: true, add });
        const dx = matmulRef(dy, dense, { m, n: k, k: n });
        for (const variant of variants) {
          if (variant === "stream" && m > STREAM_ROWS) continue;
          if (variant === "texels" && !packed.texels!.fits(m)) continue;
          if (variant === "tiles" && TILED[w.scheme][0] !== m) continue;
          const what = `${variant} ${w.scheme} ${m}x${n}x${k}`;
          const addend = tensor(device, add, [m, n]);
          const out = runPacked(tensor(device, x, [m, k]), packed, true, variant, addend);
          assertRelativeError(await out.read(), y, 1e-6, what);
          if (variant === "stream" || variant === "texels") continue;
          const back = runPacked(tensor(device, dy, [m, n]), packed, false, variant);
          assertRelativeError(await back.read(), dx, 1e-6, `${what} backward`);
        }
      }
    }
  }
});

Deno.test("FourBitTensor.multiply() differentiates x and what is added", async () => {
  const [m, n, k] = [6, 40, 64];
  const w = await quantizeFourBit(randomTensor([n, k], 13), { doubleQuant: true });
  const dense = await w.dequantize().read();
  await checkOp(
    [
      { data: randomNumbers(m * k, 14), shape: [2, 3, k] },
      { data: randomNumbers(m * n, 15), shape: [2, 3, n] },
    ],
    (x, add) => w.multiply(x, { add }),
    (x, add) => matmulRef(x, dense, { m, n, k, transposeB: true, add }),
  );
  assertThrows(
    () => w.multiply(randomTensor([2, 32], 1)),
    RangeError,
    "inner sizes are 32 and 64",
  );
});

Deno.test("FP4_TABLE holds bitsandbytes' bits", () => {
  const bits = new Uint32Array(FP4_TABLE.buffer);
  assertEquals(
    Array.from(bits.slice(0, 8), (word) => word.toString(16).padStart(8, "0")),
    [
      "00000000",
      "3baaaaab",
      "3f2aaaab",
      "3f800000",
      "3eaaaaab",
      "3f000000",
      "3e2aaaab",
      "3e800000",
    ],
  );
});
