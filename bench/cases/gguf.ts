/**
 * Cases of weights in GGUF's blocks: decoding them, and products with few rows.
 *
 * @module
 */
import { Random } from "../../core/random.ts";
import { matmulRef } from "../../kernels/linear/matmul_ref.ts";
import { GgufBlockTensor } from "../../kernels/quant/gguf_block.ts";
import { ggufBlockRef } from "../../kernels/quant/gguf_block_ref.ts";
import { GGUF_BLOCKS, type GgufBlockType } from "../../kernels/quant/gguf_types.ts";
import { AS_TIMED, type Inputs, type KernelCase, places, type Sizes } from "../case.ts";

const SAMPLES = 100;

/** A weight of random blocks, and its elements by the reference. */
interface RandomWeight {
  readonly weight: GgufBlockTensor;
  /** The elements of a part that is a whole number of blocks. */
  elements(start: number, count: number): number[];
}

function randomWeight(
  inputs: Inputs,
  type: GgufBlockType,
  rows: number,
  columns: number,
): RandomWeight {
  const { weights, bytes: size, halves } = GGUF_BLOCKS[type];
  const blocks = rows * columns / weights;
  const bytes = new Uint8Array(4 * Math.ceil(blocks * size / 4));
  const random = new Random(rows);
  const words = new Uint32Array(bytes.buffer);
  for (let i = 0; i < words.length; i++) words[i] = random.integer(2 ** 32);
  const view = new DataView(bytes.buffer);
  for (let block = 0; block < blocks; block++) {
    for (const at of halves) view.setFloat16(block * size + at, random.uniform(0.001, 0.003), true);
  }
  return {
    weight: new GgufBlockTensor([rows, columns], type, inputs.data(words)),
    elements: (start, count) =>
      Array.from({ length: count / weights }, (_, i) => {
        const at = (start / weights + i) * size;
        return ggufBlockRef(type, bytes.slice(at, at + size));
      }).flat(),
  };
}

const bytesOf = (type: GgufBlockType, size: number) =>
  size / GGUF_BLOCKS[type].weights * GGUF_BLOCKS[type].bytes;

function gemv(type: GgufBlockType): KernelCase {
  return {
    kernel: `gemv ${type}`,
    tiny: { M: 2, N: 64, K: 512 },
    software: [{ M: 1, N: 1536, K: 768 }],
    gpu: [{ M: 1, N: 4096, K: 4096 }, { M: 1, N: 14_336, K: 4096 }],
    checked: AS_TIMED,
    multiples: { K: GGUF_BLOCKS[type].weights },
    allowed: 2e-6,
    bytes: ({ M, N, K }: Sizes) => bytesOf(type, N * K) + 4 * M * (N + K),
    make: (inputs, { M, N, K }) => {
      const x = inputs.floats([M, K]);
      const { weight, elements } = randomWeight(inputs, type, N, K);
      return {
        run: () => [weight.multiply(x)],
        expected: (read) => {
          const at = places(M * N, SAMPLES);
          return [{
            at,
            values: at.map((place) => {
              const row = read(x).subarray(Math.floor(place / N) * K).subarray(0, K);
              return matmulRef(row, elements(place % N * K, K), { m: 1, n: 1, k: K })[0];
            }),
          }];
        },
      };
    },
  };
}

function dequantize(type: GgufBlockType): KernelCase {
  return {
    kernel: `dequantize ${type}`,
    tiny: { rows: 5, columns: 768 },
    software: [{ rows: 1536, columns: 768 }],
    gpu: [{ rows: 4096, columns: 4096 }],
    multiples: { columns: GGUF_BLOCKS[type].weights },
    // Equal to the last bit.
    allowed: 0,
    bytes: ({ rows, columns }) => bytesOf(type, rows * columns) + 4 * rows * columns,
    make: (inputs, { rows, columns }) => {
      const { weight, elements } = randomWeight(inputs, type, rows, columns);
      return {
        run: () => [weight.dequantize()],
        expected: () => [{ values: Float32Array.from(elements(0, rows * columns)) }],
      };
    },
  };
}

/** The cases: the two types that most files have. */
export const GGUF_CASES: readonly KernelCase[] = [
  gemv("Q4_0"),
  gemv("Q4_K"),
  dequantize("Q4_0"),
  dequantize("Q4_K"),
];
