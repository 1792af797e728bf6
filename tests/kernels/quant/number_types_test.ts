import { decodeFloat, encodeFloat } from "../../../kernels/quant/float_format.ts";
import {
  decodeFp8,
  encodeFp8,
  FP8_FORMATS,
  FP8_TABLES,
  type Fp8Type,
} from "../../../kernels/quant/fp8.ts";
import { decodeFp8Ref, encodeFp8Ref } from "../../../kernels/quant/fp8_ref.ts";
import { numberTypes } from "../../../kernels/quant/number_types.ts";
import { Random } from "../../../core/random.ts";
import { SafetensorsFile, writeSafetensors } from "../../../train/files/safetensors.ts";
import { assert, assertEquals, assertThrows } from "../../assert.ts";

const TYPES: Fp8Type[] = ["e4m3", "e5m2"];

for (const type of TYPES) {
  const table = FP8_TABLES[type];

  Deno.test(`each of the 256 codes of ${type} is what the specification says`, () => {
    for (let code = 0; code < 256; code++) {
      const wanted = decodeFp8Ref(code, type);
      assert(Object.is(table[code], wanted), `${code}: ${table[code]}, wanted ${wanted}`);
      if (Number.isFinite(wanted)) assertEquals(encodeFp8([wanted], type)[0], code);
    }
  });

  Deno.test(`${type} takes the nearest number, ties to even`, () => {
    const random = new Random(3);
    const numbers = Array.from({ length: 5000 }, (_, i) => random.normal() * 2 ** (i % 34 - 20));
    for (let code = 0; code < 127; code++) {
      const middle = (table[code] + table[code + 1]) / 2;
      if (!Number.isFinite(middle)) continue;
      // A tie, and what lies beside it.
      numbers.push(middle, -middle, middle * (1 + 2 ** -40), middle * (1 - 2 ** -40));
    }
    const codes = encodeFp8(numbers, type);
    numbers.forEach((value, i) => {
      assertEquals(codes[i], encodeFp8Ref(value, type), `${value}`);
    });
  });
}

Deno.test("FP8 ends where OCP's table says, and saturates unless told otherwise", () => {
  assertEquals([...decodeFp8(Uint8Array.of(0x7e, 0x08, 0x01), "e4m3")], [448, 2 ** -6, 2 ** -9]);
  assertEquals([...decodeFp8(Uint8Array.of(0x7b, 4, 1), "e5m2")], [57344, 2 ** -14, 2 ** -16]);
  const beyond = [449, 464, 465, Infinity, -Infinity, NaN, -0];
  assertEquals([...encodeFp8(beyond, "e4m3")], [0x7e, 0x7e, 0x7e, 0x7e, 0xfe, 0x7f, 0x80]);
  assertEquals(
    [...encodeFp8(beyond, "e4m3", { saturate: false })],
    // 464 is the tie between 448, whose code is even, and what would come next.
    [0x7e, 0x7e, 0x7f, 0x7f, 0xff, 0x7f, 0x80],
  );
  const far = [61439, 61440, Infinity, -Infinity, NaN];
  assertEquals([...encodeFp8(far, "e5m2")], [0x7b, 0x7b, 0x7b, 0xfb, 0x7f]);
  const open = encodeFp8(far, "e5m2", { saturate: false });
  assertEquals([...open], [0x7b, 0x7c, 0x7c, 0xfc, 0x7f]);
});

Deno.test("float formats agree with the machine's own float32 and float16", () => {
  const random = new Random(4);
  const single = { exponentBits: 8, fractionBits: 23, infinities: true };
  const half = { exponentBits: 5, fractionBits: 10, infinities: true };
  const edges = [0, -0, 1e-46, 2 ** -149, 2 ** -150, 1.5 * 2 ** -149, 3.4e38, 65519, 65520, 1e39];
  const numbers = [
    ...edges,
    ...Array.from({ length: 4000 }, (_, i) => random.normal() * 2 ** (i % 60 - 30)),
  ];
  for (const value of numbers) {
    for (
      const [format, wanted] of [[single, Math.fround(value)], [
        half,
        Math.f16round(value),
      ]] as const
    ) {
      const found = decodeFloat(encodeFloat(value, format, { saturate: false }), format);
      assert(Object.is(found, wanted), `${value}: ${found}, wanted ${wanted}`);
    }
  }
});

Deno.test("safetensors in FP8 are read as their numbers", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const path = `${folder}/fp8.safetensors`;
    const codes = Uint8Array.from({ length: 256 }, (_, code) => code);
    await writeSafetensors(
      path,
      new Map([
        ["a", { dtype: "F8_E4M3", shape: [16, 16], data: codes }],
        ["b", { dtype: "F8_E5M2", shape: [256], data: codes }],
      ]),
    );
    using file = await SafetensorsFile.open(path);
    assertEquals(await file.readFloats("a"), FP8_TABLES.e4m3 as Float32Array<ArrayBuffer>);
    assertEquals(await file.readFloats("b"), FP8_TABLES.e5m2 as Float32Array<ArrayBuffer>);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("number types have the ranges, steps and sizes of their definitions", () => {
  const types = new Map(numberTypes().map((own) => [own.name, own]));
  const of = (name: string) => types.get(name)!;
  assertEquals(of("FP32").most, 3.4028234663852886e38);
  assertEquals([of("FP16").most, of("FP16").smallest], [65504, 2 ** -24]);
  assertEquals([of("BF16").most, of("BF16").smallestNormal], [3.3895313892515355e38, 2 ** -126]);
  assertEquals([of("FP8 e4m3").most, of("FP8 e4m3").count], [448, 254]);
  assertEquals([of("FP8 e5m2").most, of("FP8 e5m2").count], [57344, 248]);
  assertEquals([of("INT8").least, of("INT8").most, of("INT4").least], [-128, 127, -8]);
  assertEquals(of("FP4").smallest, Math.fround(0.0625 / 12));
  const gigabytes = (name: string) => of(name).model.bytes / 1e9;
  assertEquals(["FP32", "BF16", "INT8", "INT4"].map(gigabytes), [28, 14, 7, 3.5]);
  assertEquals(of("INT4").model.bytesWithScales / 1e9, 7 * 4.5625 / 8);
  assertEquals(of("NF4").model.bitsPerWeight, 4.5);
  for (const { name, bits, layout, count, rounding } of types.values()) {
    assertEquals(layout.reduce((sum, field) => sum + field.bits, 0), bits, name);
    assert(count <= 2 ** bits, name);
    for (const { value, below, above, rounded, bits: code } of rounding) {
      assert(below <= value && value <= above && [below, above].includes(rounded), name);
      const nearer = Math.min(value - below, above - value);
      // A table's thresholds are midpoints in 32 bits: a tie may be a hair off.
      assert(Math.abs(rounded - value) <= nearer + 1e-7 * Math.abs(value), `${name} ${value}`);
      assertEquals(code.replaceAll(" ", "").length, bits, name);
    }
  }
  // 0.1 in e4m3: 2^-4 · 1.625.
  assertEquals(of("FP8 e4m3").rounding[0].bits, "0 0011 101");
  assertEquals(of("FP8 e4m3").rounding[1].rounded, 1);
  assertEquals(of("FP8 e4m3").rounding[2].rounded, 1.25);
  assertEquals(of("FP32").rounding[0].rounded, Math.fround(0.1));
  assertThrows(() => numberTypes(0), RangeError, "wanted a number above 0");
  assertEquals(FP8_FORMATS.e4m3.infinities, false);
});
