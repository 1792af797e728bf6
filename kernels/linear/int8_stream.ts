/**
 * Products of a few quantized rows with integer weights: 32 lanes take a row of the weights, each word of it once. One dispatch takes
 * up to three weights of one form that share x, or a gate and what it gates.
 *
 * @module
 */
import { uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { type Kernel, kernel } from "../../core/kernel.ts";
import type { IntegerTensor } from "../quant/integer.ts";
import {
  type ByteInput,
  fitsFloats,
  type FloatRows,
  type InputCode,
  inputCode,
} from "./int8_input.ts";
import { type ByteForm, bytesWgsl, fitsBytes, formOf, hasByteDots } from "./int8_words.ts";
import type { StreamProduct } from "./stream_product.ts";
import { unroll } from "./unroll.ts";

/** Rows of x at most. */
export const BYTE_STREAM_ROWS = 8;

/** Weights in one dispatch, at most. */
export const BYTE_STREAM_WEIGHTS = 3;

/** Lanes of a row of weights, and rows of a workgroup. */
const LANES = 32;
const ROWS = 4;
const THREADS = LANES * ROWS;

const XYZW = "xyzw";

/** Products with weights of one form that share x: as in stream_product.ts, but for x and the weights. */
export interface ByteStreamProduct
  extends Pick<StreamProduct, "m" | "outs" | "gated" | "add" | "biases"> {
  /** [m, k] in bytes, or in floats that the kernel rounds. */
  readonly x: ByteInput;
  /** One to three weights [n, k]; two of one shape if gated. */
  readonly weights: readonly IntegerTensor[];
}

/** What tells kernels apart. */
interface StreamForm extends ByteForm {
  readonly m: number;
  /** Words of codes that a lane loads at once. */
  readonly words: 1 | 4;
  /** How many results there are. */
  readonly outputs: number;
  readonly gated: boolean;
  readonly add: boolean;
  /** Which results get a bias. */
  readonly biases: readonly boolean[];
}

/** What a kernel makes, whatever it gets x from. */
type Products = Omit<ByteStreamProduct, "x" | "outs">;

/** Whether the kernels can take a weight with so many rows of x. */
export function fitsByteStream(
  { weight, m }: { readonly weight: IntegerTensor; readonly m: number },
): boolean {
  return m <= BYTE_STREAM_ROWS && fitsBytes(weight, weight.scheme === "int8" ? 4 : 8);
}

/** Whether weights that all fit have one form, and the device as many bindings as one dispatch with them needs. */
export function fitsOneByteStream(
  { weights: [first, ...others], gated, add, biases = [] }: Products,
): boolean {
  const isAlike = ({ scheme, zeros, groupSize, groups }: IntegerTensor) =>
    scheme === first.scheme && zeros === first.zeros && groupSize === first.groupSize &&
    groups === first.groups;
  const outputs = gated ? 1 : 1 + others.length;
  const bindings = 2 + outputs + (add ? 1 : 0) + biases.filter(Boolean).length +
    2 * (1 + others.length);
  return others.length < BYTE_STREAM_WEIGHTS && others.every(isAlike) &&
    bindings <= first.device.mostBuffers;
}

/** Workgroups for each of a product's results. */
function groupsOf(weights: readonly IntegerTensor[], gated: boolean): number[] {
  return weights.slice(gated ? 1 : 0).map(({ shape: [n] }) => Math.ceil(n / ROWS));
}

/**
 * So many elements may be rounded by all workgroups together before rounding them once is cheaper. On an H100 a token of SmolLM2-135M's
 * shape, all of whose products are below, is faster by a fifth, and one of Llama-2-7B's, all of whose are above, would be slower by a
 * tenth.
 */
const MOST_ROUNDED = 1 << 20;

/** Whether workgroups should round x themselves. */
export function roundsFloats(rows: FloatRows, products: Products): boolean {
  const { m, weights, gated = false } = products;
  const [{ device, shape: [, k] }] = weights;
  const workgroups = groupsOf(weights, gated).reduce((sum, count) => sum + count, 0);
  const left = device.gpu.limits.maxComputeWorkgroupStorageSize -
    4 * THREADS * m * (gated ? 2 : 1);
  return workgroups * m * k <= MOST_ROUNDED && fitsFloats(rows, THREADS, left);
}

/** Words of codes that a lane loads at once. */
function chooseWords(weight: IntegerTensor): 1 | 4 {
  const unit = weight.scheme === "int8" ? 16 : 32;
  return weight.shape[1] % unit === 0 && fitsBytes(weight, unit) ? 4 : 1;
}

/**
 * The loop over K of the weights `tags`, which are computed together: what a lane has of row r of x times theirs goes to `yWEIGHT_r`.
 */
function loop(form: StreamForm, tags: readonly number[]): string {
  const { bits, zeros, offset, grouped, m, words } = form;
  // Words of x for each unit, and loads of them.
  const count = bits === 8 ? words : 2 * words;
  const loads = words === 1 ? count : count / 4;
  const own = (j: number, i: number) => words === 1 ? `word${j}` : `word${j}.${XYZW[i]}`;
  const weightWord = (j: number, i: number) =>
    bits === 8 ? `bytes(${own(j, i)})` : `bytes(${own(j, i >> 1)}${i % 2 === 1 ? " >> 16u" : ""})`;
  const xWord = (r: number, i: number) =>
    words === 1 ? `x${r}_${i}` : `x${r}_${i >> 2}.${XYZW[i & 3]}`;
  const rows = (line: (r: number) => string) => unroll(m, line);
  const weights = (line: (j: number, tag: number) => string) =>
    tags.map((tag, j) => line(j, tag)).join("\n");
  const all = (line: (i: number) => string) => Array.from({ length: count }, (_, i) => line(i));
  const value = (j: number, r: number) =>
    `(f32(s${j}_${r})${zeros ? ` - (own${j}.y - MIDDLE) * f32(all${r})` : ""})`;
  return `
  let row = min(first + t / ${LANES}u, n - 1u);
  let units = params.k / ${4 * count}u;
  ${rows((r) => `${weights((j) => `var s${j}_${r} = 0;`)} ${zeros ? `var all${r} = 0;` : ""}`)}
  for (var u = t % ${LANES}u; u < units; u += ${LANES}u) {
    ${
    weights((j, tag) =>
      `let word${j} = packed${tag}[row * units + u];
    ${all((i) => `let w${j}_${i} = ${weightWord(j, i)};`).join("\n")}
    ${
        offset
          ? `let lost${j} = params.offset * (${all((i) => `dot4(w${j}_${i}, ONES)`).join(" + ")});`
          : ""
      }
    ${
        grouped
          ? `let own${j} = scales${tag}[row * params.scale_groups + u * ${
            4 * count
          }u / params.group_size];`
          : ""
      }`
    )
  }
    ${
    rows((r) =>
      `${unroll(loads, (i) => `let x${r}_${i} = codes[(${r}u * units + u) * ${loads}u + ${i}u];`)}
    ${
        zeros
          ? `all${r} += ${all((i) => `dot4(${xWord(r, i)}, ONES)`).join(" + ")}${
            offset ? ` - ${4 * count} * params.offset` : ""
          };`
          : ""
      }
    ${
        weights((j) =>
          `s${j}_${r} += ${all((i) => `dot4(${xWord(r, i)}, w${j}_${i})`).join(" + ")}${
            offset ? ` - lost${j}` : ""
          };
    ${grouped ? `y${j}_${r} += own${j}.x * ${value(j, r)}; s${j}_${r} = 0;` : ""}`
        )
      }
    ${grouped && zeros ? `all${r} = 0;` : ""}`
    )
  }
  }
  ${
    grouped ? "" : weights((j, tag) =>
      `let own${j} = scales${tag}[row];
  ${rows((r) => `y${j}_${r} = own${j}.x * ${value(j, r)};`)}`
    )
  }`;
}

/** The kernel's code for so many words of weights at a time. */
function source(form: StreamForm, input: InputCode): string {
  const { m, words, outputs, gated, add, biases } = form;
  const type = words === 1 ? "u32" : "vec4<u32>";
  const together = gated ? 2 : 1;
  const sums = Array.from({ length: together * m }, (_, i) => `y${Math.floor(i / m)}_${i % m}`);
  const firstOut = input.bindings.length + 1;
  let binding = firstOut + outputs;
  const bound = (text: string) => `@group(0) @binding(${binding++}) var<storage, read> ${text}`;
  const added = add ? bound("d: array<f32>;") : "";
  const biasBindings = biases.map((has, i) => has ? bound(`bias${i}: array<f32>;`) : "");
  const weightBindings = unroll(gated ? 2 : outputs, (i) =>
    `${bound(`packed${i}: array<${type}>;`)}
${bound(`scales${i}: array<vec2<f32>>;`)}`);
  // Workgroups belong to one weight after the other.
  const forEach = (line: (i: number) => string) =>
    Array.from({ length: outputs }, (_, i) => {
      const isLast = i === outputs - 1;
      return outputs === 1
        ? line(i)
        : `${isLast ? "" : `if (group < params.end${i}) `}{${line(i)}}`;
    }).join(" else ");
  const value = (i: number) => {
    if (gated) return "y * sigmoid(y) * (lanes_total(1u, t) * scale)";
    const bias = biases[i] ? ` + bias${i}[first + t % ${ROWS}u]` : "";
    return add ? `lanes_total(0u, t) * scale + d[at]${bias}` : bias ? `apart(y)${bias}` : "y";
  };
  return `${bytesWgsl(form)}
struct Params {
  k: u32, group_size: u32, scale_groups: u32, offset: i32,
  n0: u32, n1: u32, n2: u32, end0: u32, end1: u32, nothing: u32,
  ${input.members}
}
${input.declare()}
@group(0) @binding(${firstOut - 1}) var<uniform> params: Params;
${
    unroll(outputs, (i) =>
      `@group(0) @binding(${firstOut + i}) var<storage, read_write> out${i}: array<f32>;`)
  }
${added}
${biasBindings.join("\n")}
${weightBindings}
var<workgroup> parts: array<f32, ${sums.length * THREADS}>;

// The lanes' parts of element t of a workgroup's results, with the first weight or the second, added in their order.
fn lanes_total(weight: u32, t: u32) -> f32 {
  let base = (weight * ${m}u + t / ${ROWS}u) * ${THREADS}u + t % ${ROWS}u * ${LANES}u;
  var sum = 0.0;
  for (var i = 0u; i < ${LANES}u; i++) {
    sum += parts[base + i];
  }
  return sum;
}
${
    gated
      ? `
// As silu_gate.wgsl has it.
fn sigmoid(x: f32) -> f32 {
  let e = exp(-abs(x));
  return select(e, 1.0, x >= 0.0) / (1.0 + e);
}`
      : ""
  }
${
    biases.some(Boolean) && !add
      ? `
// A product that is rounded before anything is added, as where the sum is another kernel's: compilers fuse what they can see.
fn apart(x: f32) -> f32 { return bitcast<f32>(bitcast<u32>(x) ^ params.nothing); }`
      : ""
  }

@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let group = w.y * grid.x + w.x;
  var first = group * ${ROWS}u;
  var n = params.n0;
  ${input.prepare}
  ${sums.map((name) => `var ${name} = 0.0;`).join("\n")}
  ${
    forEach((i) =>
      `${
        i === 0 ? "" : `
  first = (group - params.end${i - 1}) * ${ROWS}u;
  n = params.n${i};`
      }
  ${loop(form, gated ? [0, 1] : [i])}`
    )
  }
  ${sums.map((name, i) => `parts[${i * THREADS}u + t] = ${name};`).join("\n")}
  workgroupBarrier();
  // An invocation for each element of the result.
  if (t < ${ROWS * m}u && first + t % ${ROWS}u < n) {
    let at = t / ${ROWS}u * n + first + t % ${ROWS}u;
    let scale = row_scales[t / ${ROWS}u];
    ${add ? "" : "let y = lanes_total(0u, t) * scale;"}
    ${forEach((i) => `out${i}[at] = ${value(i)};`)}
  }
}
`;
}

const kernels = new Map<string, Kernel>();

/** Queues products that fit. Not tracked. Tests choose arithmetic in the place of WGSL's dot product. */
export function byteStream(product: ByteStreamProduct, native: boolean = hasByteDots()): void {
  const { x, m, weights, outs, gated = false, add, biases = [] } = product;
  const [first] = weights;
  const words = chooseWords(first);
  const input = inputCode(x, words, THREADS);
  const form: StreamForm = {
    ...formOf({ weight: first, x: input }, native),
    m,
    words,
    outputs: outs.length,
    gated,
    add: add !== undefined,
    biases: biases.some(Boolean) ? biases.map(Boolean) : [],
  };
  const key = JSON.stringify([form, input.key]);
  let found = kernels.get(key);
  if (!found) {
    kernels.set(
      key,
      found = kernel(gated ? "int8_gated_stream" : "int8_stream", source(form, input)),
    );
  }
  const k = first.shape[1];
  const rows = outs.map((_, i) => weights[i].shape[0]);
  const [n0, n1 = 0, n2 = 0] = rows;
  const [g0, g1 = 0, g2 = 0] = groupsOf(weights, gated);
  const { groupSize, groups, device } = first;
  device.dispatch(
    found,
    [
      ...input.bindings,
      uniform(k, groupSize, groups, input.zero >>> 0, n0, n1, n2, g0, g0 + g1, 0, ...input.params),
      ...outs,
      ...(add ? [add] : []),
      ...biases.filter((bias) => bias !== null),
      ...weights.flatMap(({ packed, scales }) => [packed, scales]),
    ],
    gridOf(g0 + g1 + g2),
    input.constants,
    2 * m * k * weights.reduce((sum, { shape: [n] }) => sum + n, 0),
  );
}
