/**
 * Cases of several quantized weights that share a normalised row, in as few dispatches as there are kernels for.
 *
 * @module
 */
import { multiplyGated, multiplyMany, type Weight } from "../../kernels/linear/multiply_many.ts";
import { matmulRef } from "../../kernels/linear/matmul_ref.ts";
import { rmsNormRef } from "../../kernels/norm/rms_norm_ref.ts";
import type { QuantizedTensor } from "../../kernels/quant/quantized_tensor.ts";
import { AS_TIMED, type KernelCase, places, type Sizes } from "../case.ts";
import { randomWeight, type Scheme, weightBytes } from "./quant_weights.ts";

const SAMPLES = 100;

/** What tells the cases apart. */
export interface TogetherOptions {
  /** What the case is called. */
  readonly name: string;
  /** What the weights are in. */
  readonly scheme: Scheme;
  /** A gate and what it gates; else queries, keys and values. */
  readonly gated: boolean;
  /** K must be a multiple of it. */
  readonly multiple: number;
  readonly allowed: number;
  /** A weight as it multiplies: itself by default. */
  readonly factorOf?: (weight: QuantizedTensor) => Weight;
  /** By the reference, what the weights multiply, and a factor of the products: the normalised row and 1 by default. */
  readonly inputOf?: (row: ArrayLike<number>) => { row: ArrayLike<number>; step: number };
}

/** A feed-forward layer's first half for a row, or queries, keys and values. */
export function together(options: TogetherOptions): KernelCase {
  const { name, scheme, gated, multiple, allowed } = options;
  const { factorOf = (weight) => weight, inputOf = (row) => ({ row, step: 1 }) } = options;
  const rowsOf = ({ N, KV }: Sizes) => gated ? [N, N] : [N, KV, KV];
  return {
    kernel: `${gated ? "gate and up" : "queries, keys, values"} ${name}`,
    tiny: { N: 64, KV: 32, K: 128 },
    software: [{ N: 576, KV: 192, K: 576 }],
    gpu: gated
      ? [{ N: 1536, K: 576 }, { N: 14_336, K: 4096 }]
      : [{ N: 576, KV: 192, K: 576 }, { N: 4096, KV: 1024, K: 4096 }],
    checked: AS_TIMED,
    multiples: { K: multiple },
    allowed,
    bytes: (sizes) =>
      rowsOf(sizes).reduce(
        (sum, n) => sum + weightBytes(scheme, n * sizes.K, n) + 4 * n,
        4 * sizes.K,
      ),
    make: (inputs, sizes) => {
      const { K } = sizes;
      const x = inputs.floats([1, K]);
      const gain = inputs.between([K], 0.5, 1.5);
      const parts = rowsOf(sizes).map((n) => randomWeight(inputs, n, K, scheme));
      const weights = parts.map(({ weight }) => factorOf(weight));
      const norm = { gain };
      return {
        run: () =>
          gated
            ? [multiplyGated(x, weights[0], weights[1], { norm })]
            : multiplyMany(x, weights, { norm }),
        expected: (read) => {
          const { row, step } = inputOf(rmsNormRef(read(x), read(gain), 1, K));
          const dot = (part: number, n: number) =>
            step * matmulRef(row, parts[part].elements(read, n * K, K), { m: 1, n: 1, k: K })[0];
          const silu = (v: number) => v / (1 + Math.exp(-v));
          return (gated ? [0] : [0, 1, 2]).map((part) => {
            const at = places(rowsOf(sizes)[part], SAMPLES);
            return {
              at,
              values: at.map((n) => gated ? silu(dot(0, n)) * dot(1, n) : dot(part, n)),
            };
          });
        },
      };
    },
  };
}
