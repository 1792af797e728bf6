/**
 * Cases of what networks for pictures are made of: convolution, batch normalization, pooling, the rectifier.
 *
 * @module
 */
import { tensor } from "../../core/tensor.ts";
import { conv2d } from "../../kernels/conv/conv2d.ts";
import { conv2dRef } from "../../kernels/conv/conv2d_ref.ts";
import { batchNorm } from "../../kernels/norm/batch_norm.ts";
import { batchNormRef } from "../../kernels/norm/batch_norm_ref.ts";
import { relu } from "../../kernels/pointwise/relu.ts";
import { reluRef } from "../../kernels/pointwise/relu_ref.ts";
import { maxPool } from "../../kernels/pool/max_pool.ts";
import { maxPoolRef } from "../../kernels/pool/max_pool_ref.ts";
import { backwardOf, type Inputs, type KernelCase, type Sizes } from "../case.ts";

const CONVOLUTION = {
  tiny: { batch: 2, side: 5, channels: 3, outs: 8 },
  software: [{ batch: 64, side: 8, channels: 16, outs: 32 }],
  gpu: [{ batch: 64, side: 56, channels: 64, outs: 64 }],
  checked: (timed: Sizes) => ({ ...timed, batch: Math.min(timed.batch, 2) }),
};

/** Three by three pixels, and zeros around so that the picture keeps its size. */
const MOVES = { stride: 1, padding: 1 };

function convolution(inputs: Inputs, { batch, side, channels, outs }: Sizes) {
  const shapes = { x: [batch, side, side, channels], weight: [outs, 3, 3, channels] };
  const x = inputs.floats(shapes.x);
  const weight = inputs.floats(shapes.weight, 0.1);
  const bias = inputs.floats([outs]);
  const reference = ([x, weight, bias]: ArrayLike<number>[]) =>
    conv2dRef(x, weight, bias, { ...shapes, ...MOVES });
  return { operands: [x, weight, bias], reference };
}

const convolve: KernelCase = {
  kernel: "conv2d forward",
  ...CONVOLUTION,
  allowed: 2e-6,
  flops: ({ batch, side, channels, outs }) => 2 * 9 * batch * side ** 2 * channels * outs,
  make: (inputs, sizes) => {
    const { operands, reference } = convolution(inputs, sizes);
    const [x, weight, bias] = operands;
    return {
      run: () => [conv2d(x, weight, { bias, ...MOVES })],
      expected: (read) => [{ values: reference(operands.map(read)) }],
    };
  },
};

const ROWS = {
  tiny: { rows: 120, channels: 24 },
  software: [{ rows: 4096, channels: 32 }],
  gpu: [{ rows: 200_704, channels: 64 }],
};

const elements = ({ rows, channels }: Sizes) => 4 * rows * channels;

function normOf(inputs: Inputs, { rows, channels }: Sizes) {
  const x = inputs.floats([rows, channels]);
  const gain = inputs.between([channels], 0.5, 1.5);
  const bias = inputs.floats([channels]);
  const running = {
    mean: tensor(inputs.device, new Float32Array(channels)),
    variance: tensor(inputs.device, new Float32Array(channels).fill(1)),
  };
  const norm = () => batchNorm(x, gain, bias, running, { training: true });
  const reference = ([x, gain, bias]: ArrayLike<number>[]) => batchNormRef(x, gain, bias);
  return { norm, operands: [x, gain, bias], reference };
}

const norm: KernelCase = {
  kernel: "batch norm forward",
  ...ROWS,
  allowed: 2e-6,
  bytes: (sizes) => 2 * elements(sizes),
  make: (inputs, sizes) => {
    const { norm, operands, reference } = normOf(inputs, sizes);
    return {
      run: () => [norm()],
      expected: (read) => [{ values: reference(operands.map(read)) }],
    };
  },
};

const normBackward: KernelCase = {
  kernel: "batch norm backward",
  ...ROWS,
  allowed: 2e-5,
  bytes: (sizes) => 3 * elements(sizes),
  make: (inputs, sizes) => {
    const { norm, operands, reference } = normOf(inputs, sizes);
    for (const t of operands) t.requiresGrad = true;
    const out = norm();
    return backwardOf({ out, inputs: operands, grad: inputs.floats(out.shape), reference });
  },
};

const rectify: KernelCase = {
  kernel: "relu",
  ...ROWS,
  allowed: 0,
  bytes: (sizes) => 2 * elements(sizes),
  make: (inputs, { rows, channels }) => {
    const x = inputs.floats([rows, channels]);
    return {
      run: () => [relu(x)],
      expected: (read) => [{ values: reluRef(read(x)) }],
    };
  },
};

const pool: KernelCase = {
  kernel: "max pool",
  ...CONVOLUTION,
  allowed: 0,
  bytes: ({ batch, side, channels }) => 6 * batch * side ** 2 * channels,
  make: (inputs, { batch, side, channels }) => {
    const shape = [batch, side, side, channels];
    const x = inputs.floats(shape);
    return {
      run: () => [maxPool(x, 2)],
      expected: (read) => [{ values: maxPoolRef(read(x), shape, 2) }],
    };
  },
};

/** The cases. */
export const PICTURE_CASES: readonly KernelCase[] = [
  convolve,
  norm,
  normBackward,
  rectify,
  pool,
];
