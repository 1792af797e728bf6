/**
 * Cases of products in whole numbers: activations in 8 bits, weights in 8 or 4.
 *
 * @module
 */
import { runBytes } from "../../kernels/linear/int8_product.ts";
import { rmsNormRef } from "../../kernels/norm/rms_norm_ref.ts";
import { matmulRef } from "../../kernels/linear/matmul_ref.ts";
import type { IntegerTensor } from "../../kernels/quant/integer.ts";
import { quantizeNormalized } from "../../kernels/quant/quantize_normalized.ts";
import { quantizeRows } from "../../kernels/quant/quantize_rows.ts";
import { quantizeRowsRef } from "../../kernels/quant/quantize_rows_ref.ts";
import { rotate, rotationSize } from "../../kernels/quant/rotate.ts";
import { rotateRef } from "../../kernels/quant/rotate_ref.ts";
import { RoundingTensor } from "../../kernels/quant/rounding_tensor.ts";
import { AS_TIMED, fewRows, type KernelCase, places, type Sizes } from "../case.ts";
import { BLOCK, randomWeight, weightBytes } from "./quant_weights.ts";
import { together } from "./together.ts";

const SAMPLES = 100;

const DYNAMIC = { kind: "dynamic" } as const;

/** What products with such weights are called. */
function nameOf(scheme: "int8" | "int4"): string {
  return scheme === "int8" ? "w8a8" : "w4a8";
}

/** Rows of weights are whole words, or whole groups. */
function multipleOf(scheme: "int8" | "int4"): number {
  return scheme === "int8" ? 4 : BLOCK;
}

function product(scheme: "int8" | "int4", few: boolean): KernelCase {
  return {
    kernel: `${few ? "gemv" : "matmul"} ${nameOf(scheme)}`,
    tiny: few ? { M: 2, N: 64, K: 128 } : { M: 20, N: 64, K: 128 },
    software: few ? [{ M: 1, N: 1536, K: 576 }] : [{ M: 256, N: 1536, K: 576 }],
    gpu: few
      ? [{ M: 1, N: 4096, K: 4096 }, { M: 1, N: 14_336, K: 4096 }, { M: 8, N: 14_336, K: 4096 }]
      : [{ M: 512, N: 4096, K: 4096 }, { M: 4096, N: 4096, K: 4096 }],
    checked: AS_TIMED,
    multiples: { K: multipleOf(scheme) },
    allowed: 4e-6,
    ...few
      ? { bytes: ({ M, N, K }) => weightBytes(scheme, N * K, N) + M * (K + 4 * N) }
      : { flops: ({ M, N, K }) => 2 * M * N * K },
    make: (inputs, { M, N, K }) => {
      const { weight, elements } = randomWeight(inputs, N, K, scheme);
      const codes = inputs.bits([M, K / 4]);
      const scales = inputs.between([M], 0.01, 0.02);
      const rows = { shape: [M, K], codes, scales, zero: 0 };
      return {
        run: () => [runBytes(rows, weight as IntegerTensor)],
        expected: (read) => {
          const bytes = new Int8Array(read(codes).slice().buffer);
          const steps = read(scales);
          const at = places(M * N, SAMPLES);
          const values = at.map((place) => {
            const [i, j] = [Math.floor(place / N), place % N];
            const line = elements(read, j * K, K);
            const row = bytes.subarray(i * K, (i + 1) * K);
            return steps[i] * matmulRef(row, line, { m: 1, n: 1, k: K })[0];
          });
          return [{ at, values }];
        },
      };
    },
  };
}

/** Weights in whole numbers that share a normalised row, which is rounded once. */
function rounded(scheme: "int8" | "int4", gated: boolean): KernelCase {
  return together({
    name: nameOf(scheme),
    scheme,
    gated,
    multiple: multipleOf(scheme),
    // A byte of the row may be one apart, where a number lies within rounding of half a step.
    allowed: 1e-3,
    factorOf: (weight) => new RoundingTensor(weight as IntegerTensor, DYNAMIC),
    inputOf: (row) => {
      const { codes, scales: [step] } = quantizeRowsRef(row, row.length, DYNAMIC);
      return { row: codes, step };
    },
  });
}

/** Rows that become bytes. */
const ROWS = {
  tiny: { rows: 9, columns: 96 },
  software: [{ rows: 256, columns: 576 }],
  gpu: [{ rows: 1, columns: 4096 }, { rows: 4096, columns: 4096 }],
  checked: fewRows(9),
  bytes: ({ rows, columns }: Sizes) => 5 * rows * columns,
};

const normalizedCase: KernelCase = {
  kernel: "quantize normalized activations",
  ...ROWS,
  // Scales; codes may be one apart where a device's division rounds otherwise.
  allowed: 2e-6,
  make: (inputs, { rows, columns }) => {
    const x = inputs.floats([rows, columns]);
    const gain = inputs.between([columns], 0.5, 1.5);
    return {
      run: () => [quantizeNormalized(x, gain, 1e-5, DYNAMIC).scales],
      expected: (read) => {
        const normed = rmsNormRef(read(x), read(gain), rows, columns);
        return [{ values: quantizeRowsRef(normed, columns, DYNAMIC).scales }];
      },
    };
  },
};

const rowsCase: KernelCase = {
  kernel: "quantize activations",
  ...ROWS,
  // Scales; codes may be one apart where a device's division rounds otherwise.
  allowed: 1e-6,
  make: (inputs, { rows, columns }) => {
    const x = inputs.floats([rows, columns]);
    return {
      run: () => [quantizeRows(x, DYNAMIC).scales],
      expected: (read) => [
        { values: quantizeRowsRef(read(x), columns, DYNAMIC).scales },
      ],
    };
  },
};

const rotateCase: KernelCase = {
  kernel: "rotate activations",
  tiny: { rows: 9, columns: 96 },
  software: [{ rows: 256, columns: 576 }, { rows: 256, columns: 1536 }],
  gpu: [{ rows: 1, columns: 4096 }, { rows: 4096, columns: 4096 }, { rows: 512, columns: 11_008 }],
  checked: fewRows(9),
  allowed: 2e-6,
  bytes: ({ rows, columns }) => 8 * rows * columns,
  make: (inputs, { rows, columns }) => {
    const x = inputs.floats([rows, columns]);
    const before = inputs.between([columns], 0.5, 2);
    const after = inputs.between([columns], 0.5, 2);
    const size = rotationSize(columns);
    return {
      run: () => [rotate(x, { before, after, size })],
      expected: (read) => {
        // The whole of one row, the last.
        const first = (rows - 1) * columns;
        const row = read(x).subarray(first, first + columns);
        const at = Array.from({ length: columns }, (_, i) => first + i);
        return [{ at, values: rotateRef(row, read(before), read(after), size) }];
      },
    };
  },
};

/** The cases. */
export const BYTE_CASES: readonly KernelCase[] = [
  ...(["int8", "int4"] as const).flatMap((scheme) => [
    product(scheme, false),
    product(scheme, true),
    rounded(scheme, false),
    rounded(scheme, true),
  ]),
  rowsCase,
  normalizedCase,
  rotateCase,
];
