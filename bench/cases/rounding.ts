/**
 * Cases of quantization-aware training: ranges of groups, rounding with its gradients, learning from a teacher.
 *
 * @module
 */
import { noGrad } from "../../core/autograd.ts";
import { distillation } from "../../kernels/loss/distillation.ts";
import { distillationRef } from "../../kernels/loss/distillation_ref.ts";
import { fakeQuantize } from "../../kernels/quant/fake_quant.ts";
import { fakeQuantGradientsRef, fakeQuantRef } from "../../kernels/quant/fake_quant_ref.ts";
import { groupRanges } from "../../kernels/quant/group_grid.ts";
import { groupRangesRef } from "../../kernels/quant/group_grid_ref.ts";
import {
  backwardOf,
  fewRows,
  type Inputs,
  type KernelCase,
  NONE_EARLIER,
  type Sizes,
} from "../case.ts";

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
  kernel: "fake quant",
  ...MATRIX,
  multiples: { columns: GROUP },
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
    multiples: { columns: GROUP },
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

const LOGITS = {
  tiny: { rows: 5, columns: 72 },
  software: [{ rows: 128, columns: 2048 }],
  gpu: [{ rows: 2048, columns: 49_152 }],
  checked: fewRows(5),
};

/** Logits of a student and a teacher, and targets that all count. */
function predictions(inputs: Inputs, { rows, columns }: Sizes) {
  const [student, teacher] = [0, 1].map(() => inputs.floats([rows, columns], 3));
  return { student, teacher, targets: inputs.integers([rows], columns) };
}

const distilling: KernelCase = {
  kernel: "distillation forward",
  ...LOGITS,
  allowed: 4e-6,
  bytes: (sizes) => 2 * bytes(sizes),
  make: (inputs, sizes) => {
    const { student, teacher, targets } = predictions(inputs, sizes);
    return {
      run: () => [distillation(student, teacher, targets)],
      expected: (read) => {
        const [s, t, own] = [student, teacher, targets].map(read);
        return [{ values: [distillationRef(s, t, own, sizes.columns)] }];
      },
    };
  },
};

const distillingBackward: KernelCase = {
  kernel: "distillation backward",
  ...LOGITS,
  allowed: 1e-4,
  bytes: (sizes) => 3 * bytes(sizes),
  make: (inputs, sizes) => {
    const { student, teacher } = predictions(inputs, sizes);
    const order = new Int32Array(sizes.rows);
    student.requiresGrad = true;
    const out = distillation(student, teacher, inputs.data(order));
    const reference = (
      [s, t]: ArrayLike<number>[],
    ) => [distillationRef(s, t, order, sizes.columns)];
    const grad = inputs.data(new Float32Array([1]), []);
    return backwardOf({ out, inputs: [student, teacher], grad, reference });
  },
};

/** All of them. */
export const ROUNDING_CASES: readonly KernelCase[] = [
  ranges("group ranges", () => GROUP),
  ranges("group ranges rows", ({ columns }) => columns),
  forward,
  backward("fake quant backward", false),
  backward("fake quant backward lsq", true),
  distilling,
  distillingBackward,
];
