/**
 * Cases of the attention family.
 *
 * @module
 */
import { attention } from "../../kernels/attention/attention.ts";
import { attentionRef } from "../../kernels/attention/attention_ref.ts";
import { cachedAttention } from "../../kernels/attention/cached_attention.ts";
import { rope } from "../../kernels/attention/rope.ts";
import { ropeAppendRef } from "../../kernels/attention/rope_append_ref.ts";
import { ropeRef } from "../../kernels/attention/rope_ref.ts";
import { AS_TIMED, backwardOf, type Inputs, type KernelCase, partOf, type Sizes } from "../case.ts";

/** 0, 1, …, length − 1 for each sequence of a batch. */
function positionsOf(batch: number, length: number, first = 0): Int32Array {
  return Int32Array.from({ length: batch * length }, (_, i) => first + i % length);
}

/** Longer sequences are checked as more of so many tokens: each kernel's grid, by which it is chosen, is as large. */
const CHECKED_LENGTH = 128;

/** The same for heads of keys and values: two tell them apart. */
function checkedLengths({ batch, length, heads, kvHeads, D }: Sizes): Sizes {
  const few = kvHeads % 2 === 0 ? 2 : kvHeads;
  return {
    batch: batch * kvHeads / few * Math.ceil(length / CHECKED_LENGTH),
    length: Math.min(length, CHECKED_LENGTH),
    heads: heads * few / kvHeads,
    kvHeads: few,
    D,
  };
}

const SIZES = {
  tiny: { batch: 2, length: 20, heads: 4, kvHeads: 2, D: 32 },
  software: [{ batch: 1, length: 128, heads: 9, kvHeads: 3, D: 64 }],
  gpu: [
    { batch: 1, length: 1024, heads: 16, kvHeads: 16, D: 64 },
    { batch: 4, length: 1024, heads: 16, kvHeads: 16, D: 64 },
    { batch: 4, length: 512, heads: 9, kvHeads: 3, D: 64 },
    { batch: 1, length: 128, heads: 9, kvHeads: 3, D: 64 },
    { batch: 1, length: 512, heads: 32, kvHeads: 32, D: 128 },
    { batch: 2, length: 2048, heads: 32, kvHeads: 8, D: 128 },
  ],
  checked: checkedLengths,
};

/** Scores and weighted sum of the causal half. */
const forwardFlops = ({ batch, length, heads, D }: Sizes) => 2 * batch * heads * length ** 2 * D;

function operands(inputs: Inputs, { batch, length, heads, kvHeads, D }: Sizes) {
  const [q, k, v] = [heads, kvHeads, kvHeads].map((count) =>
    inputs.floats([batch, length, count, D])
  );
  const order = positionsOf(batch, length);
  const positions = inputs.data(order, [batch, length]);
  // Of one sequence: they do not depend on each other.
  const dims = { batch: 1, queries: length, keys: length, heads, kvHeads, size: D };
  const reference = ([q, k, v]: ArrayLike<number>[]) => attentionRef(q, k, v, order, dims);
  return { q, k, v, positions, reference };
}

const forward: KernelCase = {
  kernel: "attention forward",
  ...SIZES,
  allowed: 2e-6,
  flops: forwardFlops,
  make: (inputs, sizes) => {
    const { batch } = sizes;
    const { q, k, v, positions, reference } = operands(inputs, sizes);
    return {
      run: () => [attention(q, k, v, positions)],
      expected: (read) => {
        const all = [q, k, v].map((t) => Float64Array.from(read(t)));
        const length = q.size / batch;
        // The first sequence and the last.
        const found = [...new Set([0, batch - 1])].map((part) => ({
          at: Array.from({ length }, (_, i) => part * length + i),
          values: reference(all.map((x) => partOf(x, part, batch))),
        }));
        const at = found.flatMap((own) => own.at);
        return [{ at, values: found.flatMap((own) => [...own.values]) }];
      },
    };
  },
};

const backward: KernelCase = {
  kernel: "attention backward",
  ...SIZES,
  allowed: 2e-5,
  // Five products where the forward pass has two; what the kernels compute twice does not count.
  flops: (sizes) => 2.5 * forwardFlops(sizes),
  make: (inputs, sizes) => {
    const { q, k, v, positions, reference } = operands(inputs, sizes);
    for (const t of [q, k, v]) t.requiresGrad = true;
    const out = attention(q, k, v, positions);
    const grad = inputs.floats(out.shape);
    return backwardOf({ out, inputs: [q, k, v], grad, reference, parts: sizes.batch });
  },
};

/** One query for each sequence over a cache that is full but for one slot. */
const decode: KernelCase = {
  kernel: "attention decode",
  tiny: { batch: 2, keys: 20, heads: 4, kvHeads: 2, D: 32 },
  software: [{ batch: 1, keys: 512, heads: 9, kvHeads: 3, D: 64 }],
  gpu: [
    { batch: 1, keys: 512, heads: 9, kvHeads: 3, D: 64 },
    { batch: 1, keys: 512, heads: 32, kvHeads: 32, D: 128 },
    { batch: 1, keys: 2048, heads: 32, kvHeads: 8, D: 128 },
    { batch: 8, keys: 2048, heads: 32, kvHeads: 8, D: 128 },
  ],
  checked: AS_TIMED,
  allowed: 2e-6,
  bytes: ({ batch, keys, heads, kvHeads, D }) => 4 * batch * D * (2 * keys * kvHeads + 2 * heads),
  make: (inputs, { batch, keys, heads, kvHeads, D }) => {
    const q = inputs.floats([batch, 1, heads, D]);
    const [k, v] = [0, 1].map(() => inputs.floats([batch, keys, kvHeads, D]));
    const order = positionsOf(batch, 1, keys - 1);
    const positions = inputs.data(order, [batch, 1]);
    const past = inputs.data(new Int32Array([keys - 1]));
    const dims = { batch, queries: 1, keys, heads, kvHeads, size: D, past: keys - 1 };
    return {
      run: () => [attention(q, k, v, positions, { past })],
      expected: (read) => [{ values: attentionRef(read(q), read(k), read(v), order, dims) }],
    };
  },
};

const THETA = 10_000;

/** Cosines and then sines, for each position. */
function anglesOf(length: number, D: number): Float32Array {
  const table = new Float32Array(length * D);
  for (let position = 0; position < length; position++) {
    for (let j = 0; j < D / 2; j++) {
      const angle = position * THETA ** (-2 * j / D);
      table[position * D + j] = Math.cos(angle);
      table[position * D + D / 2 + j] = Math.sin(angle);
    }
  }
  return table;
}

const ropeCase: KernelCase = {
  kernel: "rope",
  tiny: { batch: 2, length: 5, heads: 3, D: 64 },
  software: [{ batch: 4, length: 128, heads: 9, D: 64 }],
  gpu: [{ batch: 2, length: 2048, heads: 32, D: 128 }],
  // The table is in float32, the reference's angles in float64.
  allowed: 2e-6,
  bytes: ({ batch, length, heads, D }) => 4 * D * (2 * batch * length * heads + length),
  make: (inputs, { batch, length, heads, D }) => {
    const x = inputs.floats([batch, length, heads, D]);
    const order = positionsOf(batch, length);
    const positions = inputs.data(order, [batch, length]);
    const t = inputs.data(anglesOf(length, D), [length, D]);
    return {
      run: () => [rope(x, positions, t)],
      expected: (read) => [{ values: ropeRef(read(x), order, batch * length, heads, D, THETA) }],
    };
  },
};

/** What a layer does between its projections when a model decodes: rope, the new slot of the cache, attention. */
const decodeStep: KernelCase = {
  kernel: "rope, append and attention of one token",
  tiny: { batch: 2, keys: 20, heads: 4, kvHeads: 2, D: 32 },
  software: [{ batch: 1, keys: 512, heads: 9, kvHeads: 3, D: 64 }],
  gpu: [
    { batch: 1, keys: 512, heads: 9, kvHeads: 3, D: 64 },
    { batch: 1, keys: 512, heads: 32, kvHeads: 32, D: 128 },
  ],
  checked: AS_TIMED,
  allowed: 2e-6,
  inPlace: true,
  bytes: ({ batch, keys, heads, kvHeads, D }) => 4 * batch * D * (2 * keys * kvHeads + 2 * heads),
  make: (inputs, { batch, keys, heads, kvHeads, D }) => {
    const [q, k, v] = [heads, kvHeads, kvHeads].map((count) => inputs.floats([batch, 1, count, D]));
    const [cachedKeys, values] = [0, 1].map(() => inputs.floats([batch, keys, kvHeads, D]));
    const order = positionsOf(batch, 1, keys - 1);
    const positions = inputs.data(order, [batch, 1]);
    const table = inputs.data(anglesOf(keys, D), [keys, D]);
    const past = inputs.data(new Int32Array([keys - 1]));
    return {
      run: () => [
        cachedAttention(q, k, v, positions, { keys: cachedKeys, values, past }, table),
        cachedKeys,
        values,
      ],
      expected: (read) => {
        const dims = { batch, length: 1, slots: keys, heads, kvHeads, size: D, theta: THETA };
        const cache = { keys: read(cachedKeys), values: read(values), past: keys - 1 };
        const fresh = { q: read(q), k: read(k), v: read(v) };
        const after = ropeAppendRef(fresh, cache, order, dims);
        const seen = { batch, queries: 1, keys, heads, kvHeads, size: D, past: keys - 1 };
        const out = attentionRef(after.q, after.keys, after.values, order, seen);
        return [out, after.keys, after.values].map((values) => ({ values }));
      },
    };
  },
};

/** The cases. */
export const ATTENTION_CASES: readonly KernelCase[] = [
  forward,
  backward,
  decode,
  decodeStep,
  ropeCase,
];
