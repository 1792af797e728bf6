/**
 * Cases of quantization-aware training: ranges of groups, and rounding with its gradients.
 *
 * @module
 */
import { noGrad } from "../../core/autograd.ts";
import { fakeQuantize } from "../../kernels/quant/fake_quant.ts";
import { fakeQuantGradientsRef, fakeQuantRef } from "../../kernels/quant/fake_quant_ref.ts";
import { groupRanges } from "../../kernels/quant/group_grid.ts";
import { groupRangesRef } from "../../kernels/quant/group_grid_ref.ts";
import { type Inputs, type KernelCase, NONE_EARLIER, type Sizes } from "../case.ts";

const GROUP = 64;
const LEVELS = { least: -8, most: 7 };
/** A power of two: no device's division is off by a bit that takes a number to another step. */
const STEP = 0.25;

const MATRIX = {
  tiny: { rows: 20, columns: 192 },
  software: [{ rows: 512, columns: 1536 }],
  gpu: [{ rows: 4096, columns: 4096 }],
};

const bytes = ({ rows, columns }: Sizes) => 4 * rows * columns;

function ranges(kernel: string, sizeOf: (sizes: Sizes) => number): KernelCase {
  return {
    kernel,
    ...MATRIX,
    allowed: 0,
    bytes: (sizes) => bytes(sizes) + 8 * bytes(sizes) / 4 / sizeOf(sizes),
    make: (inputs, sizes) => {
      const x = inputs.floats([sizes.rows, sizes.columns]);
      const size = sizeOf(sizes);
      return {
        run: () => [groupRanges(x, size)],
        expected: (read) => [{ values: groupRangesRef(read(x), sizes.columns, size) }],
      };
    },
  };
}

/** A weight with one step for each group, some of which it exceeds. */
function operands(inputs: Inputs, { rows, columns }: Sizes) {
  const shape = [rows, columns / GROUP];
  const groups = rows * columns / GROUP;
  return {
    x: inputs.floats([rows, columns]),
    scales: inputs.data(new Float32Array(groups).fill(STEP), shape),
    zeros: inputs.data(Float32Array.from({ length: groups }, (_, i) => i % 3), shape),
  };
}

/** The same, group by group, for the reference. */
function casesOf(x: ArrayLike<number>, zeros: ArrayLike<number>) {
  const numbers = Float64Array.from(x);
  return Array.from(zeros, (zero, i) => {
    const own = numbers.subarray(i * GROUP, (i + 1) * GROUP);
    return { x: own, scale: STEP, zero, ...LEVELS };
  });
}

const forward: KernelCase = {
  kernel: "fake_quant",
  ...MATRIX,
  allowed: 1e-6,
  bytes: (sizes) => 2 * bytes(sizes),
  make: (inputs, sizes) => {
    const { x, scales, zeros } = operands(inputs, sizes);
    return {
      run: () => [fakeQuantize(x, scales, zeros, LEVELS)],
      expected: (read) => [{ values: casesOf(read(x), read(zeros)).flatMap(fakeQuantRef) }],
    };
  },
};

function backward(kernel: string, learns: boolean): KernelCase {
  return {
    kernel,
    ...MATRIX,
    allowed: 4e-6,
    bytes: (sizes) => 3 * bytes(sizes),
    make: (inputs, sizes) => {
      const { x, scales, zeros } = operands(inputs, sizes);
      const grad = inputs.floats(x.shape);
      x.requiresGrad = true;
      for (const t of [scales, zeros]) t.requiresGrad = learns;
      const { node } = fakeQuantize(x, scales, zeros, LEVELS);
      const needs = [true, learns, learns];
      return {
        run: () => noGrad(() => node!.rule(grad, needs, NONE_EARLIER)).filter((g) => g !== null),
        expected: (read) => {
          const g = Float64Array.from(read(grad));
          const found = casesOf(read(x), read(zeros)).map((one, i) =>
            fakeQuantGradientsRef(one, g.subarray(i * GROUP, (i + 1) * GROUP), 1)
          );
          const dX = { values: found.flatMap(({ x }) => x) };
          if (!learns) return [dX];
          const of = (name: "scale" | "zero") => ({ values: found.map((own) => own[name]) });
          return [dX, of("scale"), of("zero")];
        },
      };
    },
  };
}

/** All of them. */
export const ROUNDING_CASES: readonly KernelCase[] = [
  ranges("group_ranges", () => GROUP),
  ranges("group_ranges rows", ({ columns }) => columns),
  forward,
  backward("fake_quant backward", false),
  backward("fake_quant backward lsq", true),
];
