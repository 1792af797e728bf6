/**
 * Cases of the linear family: products of floats, and of a few rows.
 *
 * @module
 */
import { matmul } from "../../kernels/linear/matmul.ts";
import { gemvRef } from "../../kernels/linear/gemv_ref.ts";
import { matmulRef } from "../../kernels/linear/matmul_ref.ts";
import { AS_TIMED, type KernelCase, places, type Sizes } from "../case.ts";

/** So many elements of a product are compared with the reference. */
const SAMPLES = 200;

const productFlops = ({ batch = 1, M, N, K }: Sizes) => 2 * batch * M * N * K;

/** Row `i` of a matrix, or column `i` of one with `columns` columns, as an array. */
function line(
  x: ArrayLike<number>,
  start: number,
  i: number,
  length: number,
  columns: number | null,
): Float64Array {
  return Float64Array.from(
    { length },
    (_, q) => x[start + (columns === null ? i * length + q : q * columns + i)],
  );
}

function product(layout: "nn" | "nt" | "tn", cases: Pick<KernelCase, "software" | "gpu">) {
  const transposeA = layout[0] === "t";
  const transposeB = layout[1] === "t";
  const batched = "batch" in cases.gpu[0];
  const found: KernelCase = {
    kernel: `matmul ${layout}${batched ? " batched" : ""}`,
    tiny: batched ? { batch: 2, M: 36, N: 40, K: 24 } : { M: 36, N: 40, K: 24 },
    ...cases,
    checked: AS_TIMED,
    // The error of a sum of K products grows with √K: 2.2e-6 was seen at K = 4096.
    allowed: 4e-6,
    flops: productFlops,
    make: (inputs, { batch = 1, M, N, K }) => {
      const leading = batched ? [batch] : [];
      const a = inputs.floats([...leading, ...transposeA ? [K, M] : [M, K]]);
      const b = inputs.floats([...leading, ...transposeB ? [N, K] : [K, N]]);
      return {
        run: () => [matmul(a, b, { transposeA, transposeB })],
        expected: (read) => {
          const [x, y] = [read(a), read(b)];
          const at = places(batch * M * N, SAMPLES);
          const values = at.map((place) => {
            const own = Math.floor(place / (M * N));
            const row = line(x, own * M * K, Math.floor(place / N) % M, K, transposeA ? M : null);
            const column = line(y, own * N * K, place % N, K, transposeB ? null : N);
            return matmulRef(row, column, { m: 1, n: 1, k: K })[0];
          });
          return [{ at, values }];
        },
      };
    },
  };
  return found;
}

function gemvCase(type: "f32" | "f16", sizes: Pick<KernelCase, "software" | "gpu">): KernelCase {
  const bytes = type === "f16" ? 2 : 4;
  return {
    kernel: type === "f16" ? "gemv f16" : "gemv",
    tiny: { M: 3, N: 40, K: 128 },
    ...sizes,
    checked: AS_TIMED,
    allowed: 2e-6,
    bytes: ({ M, N, K }) => bytes * N * K + 4 * M * (N + K),
    make: (inputs, { M, N, K }) => {
      const x = inputs.floats([M, K]);
      const w = type === "f16" ? inputs.halves([N, K]) : inputs.floats([N, K]);
      return {
        run: () => [matmul(x, w, { transposeB: true })],
        expected: (read) => {
          const [a, b] = [read(x), read(w)];
          const at = places(M * N, SAMPLES);
          const values = at.map((place) => {
            const row = line(a, 0, Math.floor(place / N), K, null);
            return gemvRef(row, line(b, 0, place % N, K, null), { rows: 1, n: 1, k: K })[0];
          });
          return [{ at, values }];
        },
      };
    },
  };
}

/** Ranks of adapters, whose products on a layer of 4,096 by 4,096 are among the cases. */
const RANKS = [8, 16, 32, 64] as const;

/** Into an adapter and out of it, forward and backward alike. */
const LORA = RANKS.flatMap((r) => [{ M: 2048, N: r, K: 4096 }, { M: 2048, N: 4096, K: r }]);

/** The cases. */
export const LINEAR_CASES: readonly KernelCase[] = [
  product("nn", {
    software: [{ M: 256, N: 576, K: 1536 }],
    gpu: [
      { M: 512, N: 4096, K: 4096 },
      { M: 512, N: 4096, K: 11_008 },
      { M: 4096, N: 4096, K: 4096 },
      { M: 2048, N: 576, K: 1536 },
      { M: 2048, N: 576, K: 49_152 },
      ...LORA,
    ],
  }),
  product("nt", {
    software: [{ M: 256, N: 1536, K: 576 }, { M: 256, N: 8, K: 576 }, { M: 256, N: 576, K: 8 }],
    gpu: [
      { M: 512, N: 4096, K: 4096 },
      { M: 512, N: 11_008, K: 4096 },
      { M: 4096, N: 4096, K: 4096 },
      { M: 2048, N: 576, K: 576 },
      { M: 2048, N: 1536, K: 576 },
      { M: 2048, N: 49_152, K: 576 },
      { M: 128, N: 576, K: 1536 },
      ...LORA,
    ],
  }),
  product("tn", {
    software: [{ M: 1536, N: 576, K: 256 }, { M: 8, N: 160, K: 256 }],
    gpu: [
      { M: 4096, N: 4096, K: 512 },
      { M: 4096, N: 4096, K: 4096 },
      { M: 1536, N: 576, K: 2048 },
      ...RANKS.flatMap((r) => [{ M: r, N: 4096, K: 2048 }, { M: 4096, N: r, K: 2048 }]),
    ],
  }),
  product("nt", {
    software: [{ batch: 9, M: 128, N: 128, K: 64 }],
    gpu: [{ batch: 32, M: 1024, N: 1024, K: 128 }],
  }),
  gemvCase("f32", {
    software: [{ M: 1, N: 1536, K: 576 }, { M: 3, N: 1536, K: 576 }],
    gpu: [
      { M: 1, N: 4096, K: 4096 },
      { M: 1, N: 14_336, K: 4096 },
      { M: 4, N: 14_336, K: 4096 },
      { M: 8, N: 14_336, K: 4096 },
      { M: 1, N: 16, K: 4096 },
      { M: 1, N: 4096, K: 16 },
    ],
  }),
  gemvCase("f16", {
    software: [{ M: 1, N: 1536, K: 576 }],
    gpu: [{ M: 1, N: 4096, K: 4096 }, { M: 1, N: 32_000, K: 4096 }, { M: 4, N: 32_000, K: 4096 }],
  }),
];
