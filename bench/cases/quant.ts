/**
 * Cases of 4-bit weights: quantizing, decoding, and products.
 *
 * @module
 */
import type { Tensor, TypedArray } from "../../core/tensor.ts";
import { chooseFourBit, runFourBit } from "../../kernels/linear/four_bit_matmul.ts";
import { matmulRef } from "../../kernels/linear/matmul_ref.ts";
import { nestedToAbsmax } from "../../kernels/quant/double_quant.ts";
import { dynamicMap } from "../../kernels/quant/dynamic_map.ts";
import { FourBitTensor, quantizeFourBit } from "../../kernels/quant/four_bit.ts";
import { dequantizeFourBitRef, quantizeFourBitRef } from "../../kernels/quant/four_bit_ref.ts";
import { type Inputs, type KernelCase, places, type Sizes } from "../case.ts";

const BLOCK = 64;
const SAMPLES = 100;

/** A weight of random codes and scales, and its elements by the reference. */
interface RandomWeight {
  readonly weight: FourBitTensor;
  /** The elements of a part that is a whole number of blocks. */
  elements(read: (t: Tensor) => TypedArray, start: number, count: number): Float32Array;
}

function randomWeight(inputs: Inputs, rows: number, columns: number, nested: boolean) {
  const blocks = rows * columns / BLOCK;
  const packed = inputs.bits([rows * columns / 8]);
  let weight: FourBitTensor;
  let scales: (read: (t: Tensor) => TypedArray) => Float32Array;
  if (nested) {
    const codes = inputs.bits([Math.ceil(blocks / 4)]);
    const nestedAbsmax = new Float32Array(Math.ceil(blocks / 256)).fill(0.01);
    const offset = 0.02;
    const table = new Float32Array(258 + nestedAbsmax.length);
    table.set(dynamicMap());
    table[256] = offset;
    table.set(nestedAbsmax, 258);
    const scale = { kind: "nested", codes, table: inputs.data(table) } as const;
    weight = new FourBitTensor([rows, columns], "nf4", BLOCK, packed, scale);
    scales = (read) =>
      nestedToAbsmax({
        codes: new Uint8Array(read(codes).buffer, 0, blocks),
        nestedAbsmax,
        offset: Math.fround(offset),
        map: dynamicMap(),
      });
  } else {
    const absmax = inputs.between([blocks], 0.01, 0.03);
    weight = new FourBitTensor([rows, columns], "nf4", BLOCK, packed, { kind: "plain", absmax });
    scales = (read) => read(absmax) as Float32Array;
  }
  let known: Float32Array | undefined;
  const found: RandomWeight = {
    weight,
    elements: (read, start, count) => {
      known ??= scales(read);
      const bytes = new Uint8Array(read(packed).buffer).subarray(start / 2, (start + count) / 2);
      const own = known.subarray(start / BLOCK, Math.ceil((start + count) / BLOCK));
      return dequantizeFourBitRef(bytes, own, "nf4", BLOCK, count);
    },
  };
  return found;
}

const weightBytes = (nested: boolean, size: number) => size / 2 + size / BLOCK * (nested ? 1 : 4);

interface ProductOptions {
  readonly nested: boolean;
  /** x · Wᵀ, or dy · W. */
  readonly transposed: boolean;
  readonly few?: boolean;
}

function product({ nested, transposed, few }: ProductOptions): KernelCase {
  const scheme = nested ? "nf4-dq" : "nf4";
  return {
    kernel: few ? `gemv ${scheme}` : `matmul ${scheme} ${transposed ? "forward" : "backward"}`,
    tiny: few ? { M: 2, N: 64, K: 128 } : { M: 20, N: 64, K: 128 },
    software: few ? [{ M: 1, N: 1536, K: 576 }] : [{ M: 256, N: 1536, K: 576 }],
    gpu: few
      ? [{ M: 1, N: 4096, K: 4096 }, { M: 1, N: 14_336, K: 4096 }, { M: 4, N: 14_336, K: 4096 }]
      : [{ M: 512, N: 4096, K: 4096 }, { M: 4096, N: 4096, K: 4096 }],
    checkTimed: true,
    allowed: 2e-6,
    ...few
      ? { bytes: ({ M, N, K }: Sizes) => weightBytes(nested, N * K) + 4 * M * (N + K) }
      : { flops: ({ M, N, K }: Sizes) => 2 * M * N * K },
    make: (inputs, { M, N, K }) => {
      // W is [N, K] in both directions; the sum is over K forward and over N backward.
      const [outer, inner] = transposed ? [N, K] : [K, N];
      const x = inputs.floats([M, inner]);
      const { weight, elements } = randomWeight(inputs, N, K, nested);
      return {
        // The op of the forward pass, and the rule of the backward pass, choose the variant alike.
        run: () => [
          runFourBit(x, weight, transposed, chooseFourBit(x.device, weight, M, transposed)),
        ],
        expected: (read) => {
          const values = read(x);
          const at = places(M * outer, SAMPLES);
          return [{
            at,
            values: at.map((place) => {
              const row = values.subarray(Math.floor(place / outer) * inner).subarray(0, inner);
              const j = place % outer;
              const line = transposed
                ? elements(read, j * K, K)
                : Float64Array.from({ length: N }, (_, n) => {
                  const block = n * K + j - (n * K + j) % BLOCK;
                  return elements(read, block, BLOCK)[(n * K + j) % BLOCK];
                });
              return matmulRef(row, line, { m: 1, n: 1, k: inner })[0];
            }),
          }];
        },
      };
    },
  };
}

const quantizeCase: KernelCase = {
  kernel: "quantize nf4",
  tiny: { rows: 9, columns: 96 },
  software: [{ rows: 1536, columns: 576 }],
  gpu: [{ rows: 4096, columns: 4096 }],
  allowed: 0,
  bytes: ({ rows, columns }) => 4 * rows * columns + weightBytes(false, rows * columns),
  make: (inputs, { rows, columns }) => {
    const w = inputs.floats([rows, columns]);
    return {
      run: () => {
        // The kernel is queued before the first wait. The read of the scales, which follows, is refused while work is recorded,
        // and is not the kernel's time.
        quantizeFourBit(w).catch(() => {});
        return [];
      },
      results: async () => {
        const { packed, scales } = await quantizeFourBit(w);
        return scales.kind === "plain" ? [packed, scales.absmax] : [];
      },
      expected: (read) => {
        const { packed, absmax } = quantizeFourBitRef(read(w) as Float32Array, "nf4", BLOCK);
        const words = new Uint32Array(Math.ceil(packed.length / 4));
        new Uint8Array(words.buffer).set(packed);
        return [{ values: words }, { values: absmax }];
      },
    };
  },
};

function dequantize(nested: boolean): KernelCase {
  return {
    kernel: `dequantize ${nested ? "nf4-dq" : "nf4"}`,
    tiny: { rows: 16, columns: 192 },
    software: [{ rows: 1536, columns: 576 }],
    gpu: [{ rows: 4096, columns: 4096 }],
    // Equal to the last bit: both round to f32 at each step.
    allowed: 0,
    bytes: ({ rows, columns }) => weightBytes(nested, rows * columns) + 4 * rows * columns,
    make: (inputs, { rows, columns }) => {
      const { weight, elements } = randomWeight(inputs, rows, columns, nested);
      return {
        run: () => [weight.dequantize()],
        expected: (read) => [{ values: elements(read, 0, rows * columns) }],
      };
    },
  };
}

/** The cases. */
export const QUANT_CASES: readonly KernelCase[] = [
  product({ nested: false, transposed: true }),
  product({ nested: false, transposed: false }),
  product({ nested: true, transposed: true }),
  product({ nested: true, transposed: false }),
  product({ nested: false, transposed: true, few: true }),
  product({ nested: true, transposed: true, few: true }),
  quantizeCase,
  dequantize(false),
  dequantize(true),
];
