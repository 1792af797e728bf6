import { device } from "../../device.ts";
import { Random } from "../../../core/random.ts";
import { tensor } from "../../../core/tensor.ts";
import { quantizeFourBit } from "../../../kernels/quant/four_bit_quantize.ts";
import { SafetensorsFile, writeSafetensors } from "../../../train/files/safetensors.ts";
import { piecesOf, quantizePieces, uploadPieces } from "../../../train/models/pieces.ts";
import { assert, assertEquals, assertRejects } from "../../assert.ts";

const folder = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));
const path = `${folder}/weight.safetensors`;

/** Two whole pieces and a ragged rest: the last block of any size is a part of one, and ends inside a word. */
const SHAPE = [1111, 1999] as const;
const random = new Random(3);
const DATA = Float32Array.from({ length: SHAPE[0] * SHAPE[1] }, () => random.normal());
await writeSafetensors(path, new Map([["w", { dtype: "F32", shape: SHAPE, data: DATA }]]));

Deno.test("quantizePieces() gives the bytes that quantizing at once gives", async () => {
  using file = await SafetensorsFile.open(path);
  const whole = tensor(device, DATA, SHAPE);
  for (
    const options of [
      { type: "nf4", blockSize: 64, doubleQuant: true },
      { type: "fp4", blockSize: 4096 },
      { type: "nf4", blockSize: 32 },
    ] as const
  ) {
    const pieces = await piecesOf(file, "w");
    const actual = await quantizePieces(device, pieces, SHAPE, options);
    const expected = await quantizeFourBit(whole, options);
    assertEquals(await actual.toBytes(), await expected.toBytes());
    actual.dispose();
    expected.dispose();
  }
  whole.dispose();
});

Deno.test("quantizePieces() holds one piece in 32 bits, and none when it fails", async () => {
  const bad = DATA.slice();
  bad[2_000_003] = NaN;
  await writeSafetensors(path, new Map([["w", { dtype: "F32", shape: SHAPE, data: bad }]]));
  using file = await SafetensorsFile.open(path);
  const before = device.memory.live;
  device.pool.resetPeak();
  const quantize = async () => await quantizePieces(device, await piecesOf(file, "w"), SHAPE, {});
  await assertRejects(quantize, RangeError, "block 31250 (elements 2000000 to 2000063) holds NaN");
  assertEquals(device.memory.live, before);
  assert(device.memory.peak - before < 4 * (1 << 20) + DATA.length * 0.6);
});

Deno.test("uploadPieces() refuses NaN and infinity, naming the first", async () => {
  const data = DATA.slice();
  data[2_100_000] = -Infinity;
  await writeSafetensors(path, new Map([["w", { dtype: "F32", shape: SHAPE, data }]]));
  using file = await SafetensorsFile.open(path);
  const before = device.memory.live;
  const upload = async () => await uploadPieces(device, await piecesOf(file, "w"), SHAPE);
  await assertRejects(upload, RangeError, "number 2100000 is -Infinity, wanted finite ones");
  assertEquals(device.memory.live, before);
});

Deno.test("uploadPieces() gives the numbers of the file", async () => {
  const data = new Float16Array(DATA);
  await writeSafetensors(path, new Map([["w", { dtype: "F16", shape: SHAPE, data }]]));
  using file = await SafetensorsFile.open(path);
  const all = await uploadPieces(device, await piecesOf(file, "w"), SHAPE);
  assertEquals(await all.read(), new Float32Array(data));
  all.dispose();
});
