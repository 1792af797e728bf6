/**
 * Cases of kernels that work on rows: norms, softmax, loss, choosing a token.
 *
 * @module
 */
import { crossEntropy } from "../../kernels/loss/cross_entropy.ts";
import { crossEntropyRef } from "../../kernels/loss/cross_entropy_ref.ts";
import { linearCrossEntropy } from "../../kernels/loss/linear_cross_entropy.ts";
import { linearCrossEntropyRef } from "../../kernels/loss/linear_cross_entropy_ref.ts";
import { layerNorm } from "../../kernels/norm/layer_norm.ts";
import { layerNormRef } from "../../kernels/norm/layer_norm_ref.ts";
import { rmsNorm } from "../../kernels/norm/rms_norm.ts";
import { rmsNormRef } from "../../kernels/norm/rms_norm_ref.ts";
import { softmax } from "../../kernels/reduce/softmax.ts";
import { softmaxRef } from "../../kernels/reduce/softmax_ref.ts";
import { sample, type SampleOptions } from "../../kernels/sample/sample.ts";
import { sampleRef } from "../../kernels/sample/sample_ref.ts";
import { noGrad } from "../../core/autograd.ts";
import {
  backwardOf,
  fewRows,
  type Inputs,
  type KernelCase,
  NONE_EARLIER,
  places,
  type Sizes,
  slope,
} from "../case.ts";

const ROWS = {
  tiny: { rows: 40, columns: 2304 },
  checked: fewRows(40),
  software: [{ rows: 512, columns: 576 }],
  gpu: [
    { rows: 4096, columns: 4096 },
    { rows: 512, columns: 4096 },
    { rows: 2048, columns: 576 },
    { rows: 128, columns: 576 },
  ],
};

const elements = ({ rows, columns }: Sizes) => 4 * rows * columns;

function normOperands(inputs: Inputs, { rows, columns }: Sizes) {
  const x = inputs.floats([rows, columns]);
  const gain = inputs.between([columns], 0.5, 1.5);
  const reference = ([x, gain]: ArrayLike<number>[]) => rmsNormRef(x, gain, rows, columns);
  return { x, gain, reference };
}

const norm: KernelCase = {
  kernel: "rms norm forward",
  ...ROWS,
  allowed: 2e-6,
  bytes: (sizes) => 2 * elements(sizes),
  make: (inputs, sizes) => {
    const { x, gain, reference } = normOperands(inputs, sizes);
    return {
      run: () => [rmsNorm(x, gain)],
      expected: (read) => [{ values: reference([x, gain].map(read)) }],
    };
  },
};

function normBackward(kernel: string, isFrozen: boolean): KernelCase {
  return {
    kernel,
    ...ROWS,
    allowed: 2e-5,
    bytes: (sizes) => 3 * elements(sizes),
    make: (inputs, sizes) => {
      const { x, gain, reference } = normOperands(inputs, sizes);
      x.requiresGrad = true;
      gain.requiresGrad = !isFrozen;
      const out = rmsNorm(x, gain);
      return backwardOf({ out, inputs: [x, gain], grad: inputs.floats(out.shape), reference });
    },
  };
}

function layerNormOperands(inputs: Inputs, { rows, columns }: Sizes) {
  const x = inputs.floats([rows, columns]);
  const gain = inputs.between([columns], 0.5, 1.5);
  const bias = inputs.floats([columns]);
  const reference = ([x, gain, bias]: ArrayLike<number>[]) =>
    layerNormRef(x, gain, bias, rows, columns);
  return { operands: [x, gain, bias] as const, reference };
}

const layer: KernelCase = {
  kernel: "layer norm forward",
  ...ROWS,
  allowed: 2e-6,
  bytes: (sizes) => 2 * elements(sizes),
  make: (inputs, sizes) => {
    const { operands, reference } = layerNormOperands(inputs, sizes);
    return {
      run: () => [layerNorm(...operands)],
      expected: (read) => [{ values: reference(operands.map(read)) }],
    };
  },
};

const layerBackward: KernelCase = {
  kernel: "layer norm backward",
  ...ROWS,
  allowed: 2e-5,
  bytes: (sizes) => 3 * elements(sizes),
  make: (inputs, sizes) => {
    const { operands, reference } = layerNormOperands(inputs, sizes);
    for (const t of operands) t.requiresGrad = true;
    const out = layerNorm(...operands);
    return backwardOf({ out, inputs: operands, grad: inputs.floats(out.shape), reference });
  },
};

const softmaxForward: KernelCase = {
  kernel: "softmax forward",
  ...ROWS,
  // 3.3e-6 was seen where 8 lanes sum rows of 60,000.
  allowed: 4e-6,
  bytes: (sizes) => 2 * elements(sizes),
  make: (inputs, { rows, columns }) => {
    const x = inputs.floats([rows, columns], 3);
    return {
      run: () => [softmax(x)],
      expected: (read) => [{ values: softmaxRef(read(x), rows, columns) }],
    };
  },
};

const softmaxBackward: KernelCase = {
  kernel: "softmax backward",
  ...ROWS,
  tiny: { rows: 2, columns: 2304 },
  checked: fewRows(2),
  allowed: 1e-4,
  bytes: (sizes) => 3 * elements(sizes),
  make: (inputs, { rows, columns }) => {
    const x = inputs.floats([rows, columns], 3);
    x.requiresGrad = true;
    const out = softmax(x);
    const reference = ([x]: ArrayLike<number>[]) => softmaxRef(x, rows, columns);
    return backwardOf({ out, inputs: [x], grad: inputs.floats(out.shape), reference });
  },
};

const LOSS = {
  tiny: { rows: 9, columns: 2304 },
  checked: fewRows(9),
  software: [{ rows: 256, columns: 8192 }],
  gpu: [32_000, 49_152, 50_257, 128_256].map((columns) => ({
    rows: columns > 1e5 ? 1024 : 2048,
    columns,
  })),
};

const loss: KernelCase = {
  kernel: "cross entropy forward",
  ...LOSS,
  allowed: 2e-6,
  bytes: elements,
  make: (inputs, { rows, columns }) => {
    const logits = inputs.floats([rows, columns], 3);
    const targets = inputs.integers([rows], columns);
    return {
      run: () => [crossEntropy(logits, targets)],
      expected: (read) => [{ values: [crossEntropyRef(read(logits), read(targets), columns)] }],
    };
  },
};

const lossBackward: KernelCase = {
  kernel: "cross entropy backward",
  ...LOSS,
  allowed: 1e-4,
  bytes: (sizes) => 2 * elements(sizes),
  make: (inputs, { rows, columns }) => {
    const logits = inputs.floats([rows, columns], 3);
    const order = Int32Array.from({ length: rows }, (_, row) => row * 7919 % columns);
    const targets = inputs.data(order);
    logits.requiresGrad = true;
    const out = crossEntropy(logits, targets);
    const reference = ([x]: ArrayLike<number>[]) => [crossEntropyRef(x, order, columns)];
    const grad = inputs.data(new Float32Array([1]), []);
    return backwardOf({ out, inputs: [logits], grad, reference });
  },
};

const headLoss: KernelCase = {
  kernel: "linear cross entropy",
  tiny: { rows: 70, columns: 132, width: 24 },
  software: [{ rows: 128, columns: 8192, width: 192 }],
  gpu: [{ rows: 2048, columns: 49_152, width: 576 }],
  // The products, which other lengths of them choose, are checked as cases of their own.
  checked: ({ rows, columns, width }) => ({
    rows: Math.min(rows, 9),
    columns,
    width: Math.min(width, 24),
  }),
  allowed: 1e-4,
  // Logits, the gradient of hidden; the weight is frozen.
  flops: ({ rows, columns, width }) => 4 * rows * columns * width,
  make: (inputs, { rows, columns, width }) => {
    const hidden = inputs.floats([rows, width]);
    const weight = inputs.floats([columns, width], 0.1);
    const own = Int32Array.from({ length: rows }, (_, row) => row * 7919 % columns);
    const targets = inputs.data(own);
    hidden.requiresGrad = true;
    const loss = () => linearCrossEntropy(hidden, weight, targets);
    const one = inputs.data(new Float32Array([1]), []);
    const reference = ([x]: ArrayLike<number>[], w: ArrayLike<number>) => [
      linearCrossEntropyRef(x, w, own, width),
    ];
    return {
      run: () => {
        const out = loss();
        const [dHidden] = noGrad(() => out.node!.rule(one, [true, false], NONE_EARLIER));
        return [out, dHidden!];
      },
      expected: (read) => {
        const [x, w] = [Float64Array.from(read(hidden)), read(weight)];
        const at = places(x.length, 12);
        const f = () => reference([x], w)[0];
        return [{ values: [f()] }, { at, values: at.map((i) => slope(x, i, f)) }];
      },
    };
  },
};

function sampling(kernel: string, options: Required<SampleOptions>): KernelCase {
  return {
    kernel,
    tiny: { rows: 6, columns: 500 },
    software: [{ rows: 4, columns: 8192 }],
    gpu: [49_152, 128_256].map((columns) => ({ rows: 1, columns })).concat({
      rows: 32,
      columns: 32_000,
    }),
    checked: fewRows(32),
    // Tokens must be equal.
    allowed: 0,
    bytes: elements,
    make: (inputs, { rows, columns }) => {
      // So wide that the likeliest tokens differ by more than the noise that draws one of them.
      const logits = inputs.floats([rows, columns], columns / 80);
      const [seed, step] = [11, 4];
      const state = inputs.data(new Uint32Array([seed, step]));
      return {
        run: () => [sample(logits, options, state)],
        expected: (read) => {
          const values = read(logits);
          return [{
            values: Array.from({ length: rows }, (_, row) =>
              sampleRef(
                values.subarray(row * columns, (row + 1) * columns),
                options,
                seed,
                step,
                row,
              )),
          }];
        },
      };
    },
  };
}

/** The cases. */
export const ROW_CASES: readonly KernelCase[] = [
  norm,
  normBackward("rms norm backward", false),
  normBackward("rms norm backward of x", true),
  layer,
  layerBackward,
  softmaxForward,
  softmaxBackward,
  loss,
  lossBackward,
  headLoss,
  sampling("sample greedy", { temperature: 0, topK: 0, topP: 1 }),
  sampling("sample top-k top-p", { temperature: 0.8, topK: 50, topP: 0.9 }),
];
