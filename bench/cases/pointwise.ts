/**
 * Cases of kernels that go over elements once: arithmetic, gates, dropout, sums, lookup, the optimizer.
 *
 * @module
 */
import { uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import { empty, zeros } from "../../core/tensor.ts";
import { embedding } from "../../kernels/embedding/embedding.ts";
import { embeddingRef } from "../../kernels/embedding/embedding_ref.ts";
import { ADAMW_BLOCK, adamwStep } from "../../kernels/optim/adamw.ts";
import { adamwRef } from "../../kernels/optim/adamw_ref.ts";
import { gradNorm } from "../../kernels/optim/grad_norm.ts";
import { gradNormRef } from "../../kernels/optim/grad_norm_ref.ts";
import { add } from "../../kernels/pointwise/arithmetic.ts";
import { arithmeticRef } from "../../kernels/pointwise/arithmetic_ref.ts";
import { dropout } from "../../kernels/pointwise/dropout.ts";
import { dropoutRef } from "../../kernels/pointwise/dropout_ref.ts";
import { columnChoice, pickColumns } from "../../kernels/pointwise/pick_columns.ts";
import { pickColumnsRef } from "../../kernels/pointwise/pick_columns_ref.ts";
import { siluGate } from "../../kernels/pointwise/silu_gate.ts";
import { siluGateRef } from "../../kernels/pointwise/silu_gate_ref.ts";
import { sum } from "../../kernels/reduce/sum.ts";
import { sumRef } from "../../kernels/reduce/sum_ref.ts";
import copyCode from "../copy.wgsl" with { type: "text" };
import { backwardOf, fewRows, type KernelCase, type Sizes } from "../case.ts";

const MATRIX = {
  tiny: { rows: 50, columns: 72 },
  software: [{ rows: 512, columns: 1536 }],
  gpu: [{ rows: 4096, columns: 4096 }],
  checked: fewRows(50),
};

const elements = ({ rows, columns }: Sizes) => 4 * rows * columns;

const copyKernel = kernel("copy", copyCode);

/** What memory gives: other kernels are measured against it. */
const copying: KernelCase = {
  kernel: "copy",
  ...MATRIX,
  // The smaller ones as those of cases/rows.ts, where the launch counts.
  gpu: [
    ...MATRIX.gpu,
    { rows: 512, columns: 4096 },
    { rows: 2048, columns: 576 },
    { rows: 128, columns: 576 },
  ],
  multiples: { columns: 4 },
  allowed: 0,
  bytes: (sizes) => 2 * elements(sizes),
  make: (inputs, { rows, columns }) => {
    const x = inputs.floats([rows, columns]);
    const quads = rows * columns / 4;
    return {
      run: () => {
        const out = empty(inputs.device, x.shape);
        const grid = gridOf(Math.ceil(quads / 256));
        inputs.device.dispatch(copyKernel, [x, out, uniform(quads)], grid);
        return [out];
      },
      expected: (read) => [{ values: read(x) }],
    };
  },
};

function adding(kernel: string, bShape: (sizes: Sizes) => number[]): KernelCase {
  return {
    kernel,
    ...MATRIX,
    allowed: 1e-6,
    bytes: (sizes) => 2 * elements(sizes) + 4 * bShape(sizes).reduce((a, b) => a * b, 1),
    make: (inputs, sizes) => {
      const shape = [sizes.rows, sizes.columns];
      const a = inputs.floats(shape);
      const b = inputs.floats(bShape(sizes));
      return {
        run: () => [add(a, b)],
        expected: (
          read,
        ) => [{ values: arithmeticRef("add", read(a), shape, read(b), b.shape).data }],
      };
    },
  };
}

const GATE = {
  tiny: { rows: 20, columns: 30 },
  software: [{ rows: 256, columns: 1536 }],
  gpu: [{ rows: 2048, columns: 14_336 }],
};

const gate: KernelCase = {
  kernel: "silu gate forward",
  ...GATE,
  allowed: 2e-6,
  bytes: (sizes) => 3 * elements(sizes),
  make: (inputs, { rows, columns }) => {
    const [x, up] = [0, 1].map(() => inputs.floats([rows, columns]));
    return {
      run: () => [siluGate(x, up)],
      expected: (read) => [{ values: siluGateRef(read(x), read(up)) }],
    };
  },
};

const gateBackward: KernelCase = {
  kernel: "silu gate backward",
  ...GATE,
  allowed: 2e-5,
  bytes: (sizes) => 5 * elements(sizes),
  make: (inputs, { rows, columns }) => {
    const [x, up] = [0, 1].map(() => inputs.floats([rows, columns]));
    x.requiresGrad = up.requiresGrad = true;
    const out = siluGate(x, up);
    const reference = ([x, up]: ArrayLike<number>[]) => siluGateRef(x, up);
    return backwardOf({ out, inputs: [x, up], grad: inputs.floats(out.shape), reference });
  },
};

const dropoutCase: KernelCase = {
  kernel: "dropout",
  ...MATRIX,
  allowed: 1e-6,
  bytes: (sizes) => 2 * elements(sizes),
  make: (inputs, { rows, columns }) => {
    const x = inputs.floats([rows, columns]);
    const [p, seed, step, site] = [0.1, 3, 7, 5];
    const state = inputs.data(new Uint32Array([seed, step]));
    return {
      run: () => [dropout(x, p, state, site)],
      expected: (read) => [{ values: dropoutRef(read(x), p, seed, step, site) }],
    };
  },
};

function summing(kernel: string, axis?: 0 | 1): KernelCase {
  return {
    kernel,
    ...MATRIX,
    // Long enough for a second pass.
    tiny: { rows: 1100, columns: 72 },
    checked: fewRows(1100),
    allowed: 2e-6,
    bytes: elements,
    make: (inputs, { rows, columns }) => {
      // Mostly positive: a sum near zero would have no relative error to speak of.
      const x = inputs.between([rows, columns], -0.5, 1.5);
      const split: [number, number, number] = axis === undefined
        ? [1, rows * columns, 1]
        : axis === 0
        ? [1, rows, columns]
        : [rows, columns, 1];
      return {
        run: () => [sum(x, { axis })],
        expected: (read) => [{ values: sumRef(read(x), ...split) }],
      };
    },
  };
}

const TABLE = {
  tiny: { rows: 70, columns: 80, ids: 150 },
  software: [{ rows: 8192, columns: 576, ids: 512 }],
  gpu: [{ rows: 32_000, columns: 4096, ids: 4096 }],
  // As many ids to a row.
  checked: ({ rows, columns, ids }: Sizes) => ({
    rows: Math.ceil(rows / 16),
    columns,
    ids: Math.ceil(ids / 16),
  }),
};

const lookup: KernelCase = {
  kernel: "embedding forward",
  ...TABLE,
  allowed: 0,
  bytes: ({ columns, ids }) => 8 * columns * ids,
  make: (inputs, { rows, columns, ids }) => {
    const table = inputs.floats([rows, columns]);
    const order = inputs.integers([ids], rows);
    return {
      run: () => [embedding(table, order)],
      expected: (read) => [{ values: embeddingRef(read(table), read(order), columns) }],
    };
  },
};

const lookupBackward: KernelCase = {
  kernel: "embedding backward",
  ...TABLE,
  allowed: 2e-5,
  bytes: ({ rows, columns, ids }) => 4 * columns * (rows + ids),
  make: (inputs, { rows, columns, ids }) => {
    const table = inputs.floats([rows, columns]);
    const own = Int32Array.from({ length: ids }, (_, i) => i * i * 31 % rows);
    table.requiresGrad = true;
    const out = embedding(table, inputs.data(own));
    const reference = ([table]: ArrayLike<number>[]) => embeddingRef(table, own, columns);
    return backwardOf({ out, inputs: [table], grad: inputs.floats(out.shape), reference });
  },
};

const FLAT = {
  tiny: { size: 5000 },
  software: [{ size: 1 << 20 }],
  gpu: [{ size: 1 << 24 }],
};

const step: KernelCase = {
  kernel: "adamw",
  ...FLAT,
  allowed: 1e-5,
  inPlace: true,
  // Reads weights, gradient and two means; writes all but the gradient.
  bytes: ({ size }) => 28 * size,
  make: (inputs, { size }) => {
    const { device } = inputs;
    const weights = inputs.floats([size]);
    const start = inputs.copy(weights);
    const grad = inputs.floats([size]);
    const [first, second] = [zeros(device, [size]), zeros(device, [size])];
    const norm = gradNorm(grad);
    const options = { learningRate: 0.01, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, clip: 1 };
    const { learningRate, beta1, beta2, epsilon, clip } = options;
    const hyper = inputs.data(
      new Float32Array([
        learningRate,
        beta1,
        beta2,
        epsilon,
        1 - beta1,
        Math.sqrt(1 - beta2),
        clip,
      ]),
    );
    const count = Math.ceil(size / ADAMW_BLOCK);
    const decay = 0.1;
    const pairs = Float32Array.from({ length: 2 * count }, (_, i) => i % 2 === 0 ? 1 : decay);
    const blocks = inputs.data(pairs, [count, 2]);
    return {
      run: () => {
        adamwStep({ weights, first, second, grad, norm, hyper, blocks });
        return [weights, first, second];
      },
      expected: (read) => {
        const state = {
          weights: Float64Array.from(read(start)),
          first: new Float64Array(size),
          second: new Float64Array(size),
        };
        adamwRef(state, read(grad), { ...options, step: 1, decay });
        return [state.weights, state.first, state.second].map((values) => ({ values }));
      },
    };
  },
};

const normCase: KernelCase = {
  kernel: "grad norm",
  ...FLAT,
  allowed: 2e-6,
  bytes: ({ size }) => 4 * size,
  make: (inputs, { size }) => {
    const grad = inputs.floats([size]);
    return {
      run: () => [gradNorm(grad)],
      expected: (read) => [{ values: [gradNormRef(read(grad))] }],
    };
  },
};

/** A tenth of the columns, as `splitLayers` keeps them. */
const picking: KernelCase = {
  kernel: "pick columns",
  ...MATRIX,
  allowed: 0,
  bytes: ({ rows, columns }) => 8 * rows * Math.ceil(columns / 10),
  make: (inputs, { rows, columns }) => {
    const x = inputs.floats([rows, columns]);
    const few = Array.from({ length: Math.ceil(columns / 10) }, (_, i) => 10 * i);
    const choice = columnChoice(inputs.device, few, columns);
    return {
      run: () => [pickColumns(x, choice)],
      expected: (read) => [{ values: pickColumnsRef(read(x), rows, columns, few) }],
    };
  },
};

/** The cases. */
export const POINTWISE_CASES: readonly KernelCase[] = [
  copying,
  adding("add", ({ rows, columns }) => [rows, columns]),
  adding("add row", ({ columns }) => [columns]),
  adding("add column", ({ rows }) => [rows, 1]),
  gate,
  gateBackward,
  dropoutCase,
  picking,
  summing("sum all"),
  summing("sum columns", 0),
  summing("sum rows", 1),
  lookup,
  lookupBackward,
  step,
  normCase,
];
