/**
 * Products of a few quantized rows with integer weights: 32 lanes take a row of the weights, each word of it once.
 *
 * @module
 */
import { gridOf } from "../../core/grid.ts";
import { type Kernel, kernel } from "../../core/kernel.ts";
import {
  type ByteForm,
  type ByteProduct,
  bytesWgsl,
  byteUniform,
  fitsBytes,
  formOf,
  hasByteDots,
} from "./int8_words.ts";
import { unroll } from "./unroll.ts";

/** Rows of x at most. */
export const BYTE_STREAM_ROWS = 8;

/** Lanes of a row of weights, and rows of a workgroup. */
const LANES = 32;
const ROWS = 4;

const XYZW = "xyzw";

/** Whether the kernels can take a product. */
export function fitsByteStream({ weight, m }: Pick<ByteProduct, "weight" | "m">): boolean {
  return m <= BYTE_STREAM_ROWS && fitsBytes(weight, weight.scheme === "int8" ? 4 : 8);
}

/** Words of codes that a lane loads at once. */
function chooseWords({ weight }: ByteProduct): 1 | 4 {
  const unit = weight.scheme === "int8" ? 16 : 32;
  return weight.shape[1] % unit === 0 && fitsBytes(weight, unit) ? 4 : 1;
}

/** The kernel for `m` rows of x in units of so many words of weights. */
function source(form: ByteForm, m: number, words: 1 | 4): string {
  const { bits, zeros, offset, grouped, add } = form;
  // Words of x for each unit, and loads of them.
  const count = bits === 8 ? words : 2 * words;
  const loads = words === 1 ? count : count / 4;
  const type = words === 1 ? "u32" : "vec4<u32>";
  const own = (i: number) => words === 1 ? "word" : `word.${XYZW[i]}`;
  const weightWord = (i: number) =>
    bits === 8 ? `bytes(${own(i)})` : `bytes(${own(i >> 1)}${i % 2 === 1 ? " >> 16u" : ""})`;
  const xWord = (r: number, i: number) =>
    words === 1 ? `x${r}_${i}` : `x${r}_${i >> 2}.${XYZW[i & 3]}`;
  const rows = (line: (r: number) => string) => unroll(m, line);
  const all = (line: (i: number) => string) => Array.from({ length: count }, (_, i) => line(i));
  const value = (r: number) => `(f32(s${r})${zeros ? ` - (own.y - MIDDLE) * f32(all${r})` : ""})`;
  return `${bytesWgsl(form)}
@group(0) @binding(0) var<storage, read> codes: array<${type}>;
@group(0) @binding(1) var<storage, read> row_scales: array<f32>;
@group(0) @binding(2) var<storage, read> packed: array<${type}>;
@group(0) @binding(3) var<storage, read> scales: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;
${add ? "@group(0) @binding(6) var<storage, read> d: array<f32>;" : ""}
var<workgroup> parts: array<f32, ${LANES * ROWS * m}>;

@compute @workgroup_size(${LANES * ROWS})
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let first = (w.y * grid.x + w.x) * ${ROWS}u;
  let row = min(first + t / ${LANES}u, params.n - 1u);
  let units = params.k / ${4 * count}u;
  ${rows((r) => `var s${r} = 0; var y${r} = 0.0; ${zeros ? `var all${r} = 0;` : ""}`)}
  for (var u = t % ${LANES}u; u < units; u += ${LANES}u) {
    let word = packed[row * units + u];
    ${all((i) => `let w${i} = ${weightWord(i)};`).join("\n")}
    ${offset ? `let lost = params.zero * (${all((i) => `dot4(w${i}, ONES)`).join(" + ")});` : ""}
    ${
    grouped ? `let own = scales[row * params.groups + u * ${4 * count}u / params.group_size];` : ""
  }
    ${
    rows((r) =>
      `${unroll(loads, (i) => `let x${r}_${i} = codes[(${r}u * units + u) * ${loads}u + ${i}u];`)}
    s${r} += ${all((i) => `dot4(${xWord(r, i)}, w${i})`).join(" + ")}${offset ? " - lost" : ""};
    ${
        zeros
          ? `all${r} += ${all((i) => `dot4(${xWord(r, i)}, ONES)`).join(" + ")}${
            offset ? ` - ${4 * count} * params.zero` : ""
          };`
          : ""
      }
    ${grouped ? `y${r} += own.x * ${value(r)}; s${r} = 0; ${zeros ? `all${r} = 0;` : ""}` : ""}`
    )
  }
  }
  ${grouped ? "" : `let own = scales[row];\n${rows((r) => `y${r} = own.x * ${value(r)};`)}`}
  ${rows((r) => `parts[${r * LANES * ROWS}u + t] = y${r};`)}
  workgroupBarrier();
  // The lanes' parts are added in their order: an invocation for each element of the result.
  if (t < ${ROWS * m}u && first + t % ${ROWS}u < params.n) {
    let base = t / ${ROWS}u * ${LANES * ROWS}u + t % ${ROWS}u * ${LANES}u;
    var sum = 0.0;
    for (var i = 0u; i < ${LANES}u; i++) {
      sum += parts[base + i];
    }
    let at = t / ${ROWS}u * params.n + first + t % ${ROWS}u;
    out[at] = sum * row_scales[t / ${ROWS}u]${add ? " + d[at]" : ""};
  }
}
`;
}

const kernels = new Map<string, Kernel>();

/** Queues a product that `fitsByteStream`. Tests choose arithmetic in the place of WGSL's dot product. */
export function byteStream(product: ByteProduct, native: boolean = hasByteDots()): void {
  const { x, weight, add, out, m } = product;
  const form = formOf(product, native);
  const words = chooseWords(product);
  const key = JSON.stringify([form, m, words]);
  let found = kernels.get(key);
  if (!found) kernels.set(key, found = kernel("int8_stream", source(form, m, words)));
  const [n, k] = weight.shape;
  const bindings = [x.codes, x.scales, weight.packed, weight.scales, out, byteUniform(product)];
  out.device.dispatch(
    found,
    [...bindings, ...(add ? [add] : [])],
    gridOf(Math.ceil(n / ROWS)),
    undefined,
    2 * m * n * k,
  );
}
