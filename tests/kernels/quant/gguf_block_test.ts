import { matmulRef } from "../../../kernels/linear/matmul_ref.ts";
import { ggufBlocks } from "../../../kernels/quant/gguf_block.ts";
import { ggufBlockRef } from "../../../kernels/quant/gguf_block_ref.ts";
import { GGUF_BLOCKS, type GgufBlockType } from "../../../kernels/quant/gguf_types.ts";
import { tensor } from "../../../core/tensor.ts";
import { DEQUANTIZE } from "../../../train/files/gguf_dequantize.ts";
import { assertEquals, assertThrows } from "../../assert.ts";
import { device, randomNumbers } from "../../device.ts";
import { randomBlocks } from "../../gguf_blocks.ts";
import { checkOp } from "../../gradient.ts";

const TYPES = Object.keys(GGUF_BLOCKS) as GgufBlockType[];

/** What the reference decodes. */
function reference(type: GgufBlockType, bytes: Uint8Array<ArrayBuffer>): Float32Array {
  const { bytes: size } = GGUF_BLOCKS[type];
  const blocks = Array.from(
    { length: bytes.length / size },
    (_, i) => ggufBlockRef(type, bytes.slice(i * size, (i + 1) * size)),
  );
  return Float32Array.from(blocks.flat());
}

/** Sizes of scales: common ones, those that half precision holds with few bits, and large ones. */
const SIZES = [1e-2, 1e-6, 1e3];

for (const type of TYPES) {
  const { weights } = GGUF_BLOCKS[type];

  Deno.test(`${type} on the device equals the reference and the host's decoder to the last bit`, async () => {
    for (const [i, size] of SIZES.entries()) {
      const [rows, blocks] = [3, weights === 32 ? 5 : 1];
      const bytes = randomBlocks(type, rows * blocks, 10 + i, size);
      const wanted = reference(type, bytes);
      const host = new Float32Array(wanted.length);
      DEQUANTIZE.get(type)!(bytes, host);
      assertEquals(host, wanted);
      const weight = ggufBlocks(device, bytes, [rows, blocks * weights], type);
      assertEquals(weight.bytes, bytes.length);
      assertEquals(await weight.dequantize().read(), wanted);
    }
  });

  Deno.test(`products with ${type} and their gradients are those of the decoded weight`, async () => {
    const [n, k] = [12, 256];
    const bytes = randomBlocks(type, n * k / weights, 3, 1e-2);
    const w = ggufBlocks(device, bytes, [n, k], type);
    const dense = Array.from(reference(type, bytes));
    // Three rows go through the matrix-vector kernel, seven do not.
    for (const m of [3, 7]) {
      await checkOp(
        [{ data: randomNumbers(m * k, 4), shape: [m, k] }, {
          data: randomNumbers(m * n, 5),
          shape: [m, n],
        }],
        (x, add) => w.multiply(x, { add }),
        (x, add) => {
          const y = matmulRef(x, dense, { m, n, k, transposeB: true });
          return y.map((value, i) => value + add[i]);
        },
        { every: 17 },
      );
    }
  });
}

Deno.test("a row of many blocks is shared by many lanes", async () => {
  const [n, k] = [40, 2304];
  for (const type of ["Q4_1", "Q6_K"] as const) {
    const bytes = randomBlocks(type, n * k / GGUF_BLOCKS[type].weights, 8, 1e-2);
    const x = randomNumbers(k, 9);
    const y = await ggufBlocks(device, bytes, [n, k], type).multiply(tensor(device, x, [1, k]))
      .read();
    const wanted = matmulRef(x, reference(type, bytes), { m: 1, n, k, transposeB: true });
    const largest = Math.max(...wanted.map(Math.abs));
    y.forEach((value, i) => assertEquals(Math.abs(value - wanted[i]) < 2e-6 * largest, true));
  }
});

Deno.test("ggufBlocks() says what it cannot use", () => {
  const bytes = randomBlocks("Q8_0", 4, 1, 1);
  assertThrows(() => ggufBlocks(device, bytes, [4, 33], "Q8_0"), RangeError, "whole blocks of 32");
  assertThrows(
    () => ggufBlocks(device, bytes, [3, 32], "Q8_0"),
    RangeError,
    "136 bytes of Q8_0 as [3,32]: wanted 102",
  );
  const weight = ggufBlocks(device, bytes, [4, 32], "Q8_0");
  assertThrows(
    () => weight.multiply(tensor(device, new Float32Array(16), [1, 16])),
    RangeError,
    "Q8_0 [4,32]ᵀ: inner sizes are 16 and 32",
  );
  new DataView(bytes.buffer).setFloat16(2 * 34, NaN, true);
  assertThrows(
    () => ggufBlocks(device, bytes, [4, 32], "Q8_0"),
    RangeError,
    "32 weights from number 64 on is not finite",
  );
});
