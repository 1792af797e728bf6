/**
 * Cases of weights in few bits: quantizing, decoding, and products.
 *
 * @module
 */
import { matmulRef } from "../../kernels/linear/matmul_ref.ts";
import { choosePacked, runPacked } from "../../kernels/linear/packed_matmul.ts";
import { quantizeFourBit } from "../../kernels/quant/four_bit_quantize.ts";
import { quantizeFourBitRef } from "../../kernels/quant/four_bit_ref.ts";
import { AS_TIMED, type KernelCase, places, type Sizes } from "../case.ts";
import { BLOCK, randomFourBit, randomWeight, type Scheme, weightBytes } from "./quant_weights.ts";
import { together } from "./together.ts";

const SAMPLES = 100;

interface ProductOptions {
  readonly scheme: Scheme;
  /** x · Wᵀ, or dy · W. */
  readonly transposed: boolean;
  readonly few?: boolean;
}

function product({ scheme, transposed, few }: ProductOptions): KernelCase {
  const small = { M: 1, N: 576, K: 576 };
  return {
    kernel: few ? `gemv ${scheme}` : `matmul ${scheme} ${transposed ? "forward" : "backward"}`,
    tiny: few ? { M: 2, N: 64, K: 128 } : { M: 20, N: 64, K: 128 },
    software: few ? [{ M: 1, N: 1536, K: 576 }] : [{ M: 256, N: 1536, K: 576 }],
    gpu: few
      ? [
        small,
        ...[[1, 4096], [1, 14_336], [4, 14_336], [8, 14_336]].map(([M, N]) => ({ M, N, K: 4096 })),
      ]
      : [
        { M: 2048, N: 1536, K: 576 },
        { M: 512, N: 4096, K: 4096 },
        { M: 512, N: 11_008, K: 4096 },
        { M: 4096, N: 4096, K: 4096 },
      ],
    checked: AS_TIMED,
    // INT8's blocks are rows.
    multiples: { K: scheme === "int8" ? 1 : BLOCK },
    // The error of a sum grows with the root of its length: 2.9e-6 was seen at 11,008.
    allowed: few ? 2e-6 : 4e-6,
    ...few
      ? { bytes: ({ M, N, K }: Sizes) => weightBytes(scheme, N * K, N) + 4 * M * (N + K) }
      : { flops: ({ M, N, K }: Sizes) => 2 * M * N * K },
    make: (inputs, { M, N, K }) => {
      // W is [N, K] in both directions; the sum is over K forward and over N backward.
      const [outer, inner] = transposed ? [N, K] : [K, N];
      const x = inputs.floats([M, inner]);
      const { weight, elements } = randomWeight(inputs, N, K, scheme);
      const packed = weight.asFactor!();
      return {
        // The op of the forward pass, and the rule of the backward pass, choose the variant alike.
        run: () => [
          runPacked(x, packed, transposed, choosePacked(x.device, packed, M, transposed)),
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
  bytes: ({ rows, columns }) => 4 * rows * columns + weightBytes("nf4", rows * columns, rows),
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

function dequantize(scheme: "nf4" | "nf4-dq"): KernelCase {
  return {
    kernel: `dequantize ${scheme}`,
    tiny: { rows: 16, columns: 192 },
    software: [{ rows: 1536, columns: 576 }],
    gpu: [{ rows: 4096, columns: 4096 }],
    multiples: { columns: BLOCK },
    // Equal to the last bit: both round to f32 at each step.
    allowed: 0,
    bytes: ({ rows, columns }) => weightBytes(scheme, rows * columns, rows) + 4 * rows * columns,
    make: (inputs, { rows, columns }) => {
      const { weight, elements } = randomFourBit(inputs, rows, columns, scheme === "nf4-dq");
      return {
        run: () => [weight.dequantize()],
        expected: (read) => [{ values: elements(read, 0, rows * columns) }],
      };
    },
  };
}

const SCHEMES = ["nf4", "nf4-dq", "int8", "int4", "int3", "int2"] as const;

/** The cases. */
export const QUANT_CASES: readonly KernelCase[] = [
  ...SCHEMES.flatMap((scheme) => [
    product({ scheme, transposed: true }),
    product({ scheme, transposed: false }),
    product({ scheme, transposed: true, few: true }),
  ]),
  product({ scheme: "int4-symmetric", transposed: true, few: true }),
  ...(["nf4", "nf4-dq"] as const).flatMap((scheme) =>
    [false, true].map((gated) =>
      together({ name: scheme, scheme, gated, multiple: BLOCK, allowed: 2e-6 })
    )
  ),
  quantizeCase,
  dequantize("nf4"),
  dequantize("nf4-dq"),
];
