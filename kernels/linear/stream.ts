/**
 * Products of a few rows with transposed weights of any format, x · Wᵀ: every weight is read once, so that at best the time is that
 * of reading. One dispatch takes up to three weights that share x, or a gate and what it gates.
 *
 * LANES neighbouring invocations share ROWS rows of W. Each takes a unit of a few neighbouring columns at a time, loads the unit of
 * every row, then x once for all rows, decodes, and adds up. The lanes' sums are combined at the end: by exchange within subgroups
 * of 32 lanes, or in workgroup memory.
 *
 * @module
 */
import { unroll } from "./unroll.ts";
import type { WeightFormat } from "./weight_format.ts";

/** Invocations of a workgroup. */
export const THREADS = 128;

/** How a kernel is built. */
export interface StreamPlan {
  /** What combines the lanes' sums, and decodes: "subgroup" needs subgroups of exactly 32 lanes. */
  readonly combine: "subgroup" | "workgroup";
  /** Invocations that share rows: a power of two up to 128; from 32 on with "subgroup". */
  readonly lanes: number;
  /** Rows of each weight that a group of lanes computes: a power of two. */
  readonly rows: number;
  /** Units of each row that are loaded before the first is used. */
  readonly ahead: number;
  /** Each lane looks up the scales of some rows for all lanes that need them: with "subgroup", where units share scales. */
  readonly share: boolean;
}

/** What a kernel computes. */
export interface StreamTask {
  /** Rows of x. */
  readonly m: number;
  /** Whether K is no multiple of what one turn of the loop takes. */
  readonly ragged: boolean;
  /** The weights are a gate and what it gates: the result is silu(x · gateᵀ) · (x · upᵀ). */
  readonly gated: boolean;
  /** x is first normalised, row by row: x · gain / √(mean(x²) + ε). */
  readonly norm: boolean;
  /** Something is added to the (one) result. */
  readonly add: boolean;
  /** Which results get a bias. */
  readonly biases: readonly boolean[];
}

/** Groups of lanes in a workgroup. */
export function groupsOf({ lanes }: StreamPlan): number {
  return THREADS / lanes;
}

const XYZW = "xyzw";

/** Sums over 32 lanes of several values at once: the lanes halve what they hold, instead of each adding up everything. */
function exchange(names: readonly string[], first: number): string {
  const count = 2 ** Math.floor(Math.log2(Math.min(32, names.length)));
  let held = names.slice(0, count);
  let code = "";
  let mask = 16;
  for (let step = 0; held.length > 1; step++, mask >>= 1) {
    const half = held.length / 2;
    code += `let b${first}_${step} = (t & ${mask}u) != 0u;\n`;
    held = Array.from({ length: half }, (_, i) => {
      const [low, high] = [held[i], held[i + half]];
      const name = `h${first}_${step}_${i}`;
      code += `let ${name} = select(${low}, ${high}, b${first}_${step}) +
  subgroupShuffleXor(select(${high}, ${low}, b${first}_${step}), ${mask}u);\n`;
      return name;
    });
  }
  // Not f32 for the 32nd: a variable may not hide a type that is used after it.
  const whole = `whole${first}`;
  code += `var ${whole} = ${held[0]};\n`;
  for (; mask > 0; mask >>= 1) code += `${whole} += subgroupShuffleXor(${whole}, ${mask}u);\n`;
  const per = 32 / count;
  code += `if ((t & ${
    per - 1
  }u) == 0u) { part[t / 32u][${first}u + t % 32u / ${per}u] = ${whole}; }\n`;
  return code + (count < names.length ? exchange(names.slice(count), first + count) : "");
}

/** WGSL that combines the lanes' sums, and after it `total(slot, value)` gives them. */
function combined(names: readonly string[], plan: StreamPlan): { declare: string; code: string } {
  const { lanes, combine } = plan;
  const count = names.length;
  if (combine === "subgroup") {
    const warps = lanes / 32;
    return {
      declare: `
var<workgroup> part: array<array<f32, ${count}>, ${THREADS / 32}>;
fn total(slot: u32, value: u32) -> f32 {
  return ${
        Array.from({ length: warps }, (_, i) => `part[slot * ${warps}u + ${i}u][value]`).join(" + ")
      };
}`,
      code: exchange(names, 0) + "workgroupBarrier();",
    };
  }
  return {
    declare: `
var<workgroup> part: array<array<f32, ${THREADS}>, ${count}>;
fn total(slot: u32, value: u32) -> f32 { return part[value][slot * ${lanes}u]; }`,
    code: `
${unroll(count, (i) => `part[${i}][t] = ${names[i]};`)}
for (var half = ${lanes >> 1}u; half > 0u; half /= 2u) {
  workgroupBarrier();
  if (lane < half) {
    ${unroll(count, (i) => `part[${i}][t] += part[${i}][t + half];`)}
  }
}
workgroupBarrier();`,
  };
}

/** The loop over K of the weights `tags`, which are computed together: their rows' sums go to `sWEIGHT_ROW_M`. */
function loop(
  formats: readonly WeightFormat[],
  tags: readonly string[],
  task: StreamTask,
  plan: StreamPlan,
): string {
  const { m, ragged, norm } = task;
  const { lanes, rows, ahead, share } = plan;
  const { unit, order } = formats[0];
  const quads = unit / 4;
  // The quad of x that unit \`at\` has at \`q\`. A block of 32 columns is eight quads.
  const quadOf = (at: string, q: number) =>
    order === "natural" ? `${at} * ${quads}u + ${q}u` : `${at} / 4u * 8u + ${at} % 4u + ${4 * q}u`;
  const weights = <T>(line: (f: WeightFormat, i: number) => T) => formats.map(line);
  const each = (line: (f: WeightFormat, i: number, r: number) => string) =>
    weights((f, i) => unroll(rows, (r) => line(f, i, r))).join("\n");
  // So many neighbouring lanes look up scales for each other: each those of every so many rows.
  const sharers = (f: WeightFormat) => share ? Math.min(f.sharing, rows) : 1;
  const shared = (f: WeightFormat) => sharers(f) > 1;
  const own = (f: WeightFormat, line: (j: number) => string) =>
    shared(f) ? unroll(rows / sharers(f), line) : "";
  const scaled = (f: WeightFormat) => f.scale("", "", "") !== "";
  const shifted = formats.some((f) => f.shifted);
  const loads = (u: number) => `
let c${u} = base + lane + ${u * lanes}u;
let at${u} = ${ragged ? `min(c${u}, units - 1u)` : `c${u}`};
${each((f, i, r) => `let w${u}_${i}_${r} = ${f.load(tags[i], `row${r}`, `at${u}`)};`)}
${
    weights((f, i) =>
      shared(f)
        ? own(
          f,
          (j) => `let own${u}_${i}_${j} = ${f.scale(tags[i], `own_row${i}_${j}`, `at${u}`)};`,
        )
        : scaled(f) && !f.rowScale
        ? unroll(rows, (r) => `let k${u}_${i}_${r} = ${f.scale(tags[i], `row${r}`, `at${u}`)};`)
        : ""
    ).join("\n")
  }`;
  const loadX = (u: number, i: number, q: number) => {
    const value = `x[${i}u * k4 + ${quadOf(`at${u}`, q)}]`;
    const name = `x${i}_${q}`;
    return `var ${name} = ${ragged ? `select(vec4<f32>(), ${value}, c${u} < units)` : value};` +
      (norm ? `\nq${i} += dot(${name}, ${name});\n${name} *= g${q};` : "");
  };
  const all = (i: number) => Array.from({ length: quads }, (_, q) => `x${i}_${q}`).join(" + ");
  // What a pair adds is left to the lane that looked it up, which does it for what all of its neighbours have of x.
  const addShifts = (u: number, f: WeightFormat, i: number) => {
    const shifts = (row: number) => {
      let sums = `var n${i}_${row} = z${row};`;
      for (let mask = 1; mask < sharers(f); mask *= 2) {
        sums += `\nn${i}_${row} += subgroupShuffleXor(n${i}_${row}, ${mask}u);`;
      }
      const name = (j: number) => `shift${i}_${j}_${row}`;
      return sums +
        own(f, (j) => `\n${name(j)} = fma(own${u}_${i}_${j}.y, n${i}_${row}, ${name(j)});`);
    };
    return f.shifted && shared(f) ? unroll(m, shifts) : "";
  };
  const scaleOf = (u: number, f: WeightFormat, i: number, r: number) => {
    if (shared(f)) {
      const many = sharers(f);
      const name = `own${u}_${i}_${Math.floor(r / many)}${f.shifted ? ".x" : ""}`;
      return `let k = subgroupShuffle(${name}, (t & ${32 - many}u) + ${r % many}u);`;
    }
    if (!scaled(f)) return "";
    return f.rowScale ? `let k = k_${i}_${r};` : `let k = k${u}_${i}_${r};`;
  };
  const use = (u: number) =>
    `{
${norm ? unroll(quads, (q) => `let g${q} = gain[${quadOf(`at${u}`, q)}];`) : ""}
${unroll(m, (i) => unroll(quads, (q) => loadX(u, i, q)))}
${shifted ? unroll(m, (i) => `let z${i} = dot(${all(i)}, vec4<f32>(1.0));`) : ""}
${weights((f, i) => addShifts(u, f, i)).join("\n")}
${
      each((f, i, r) => {
        const product = (row: number) => {
          let sum = `d0 * x${row}_0.x`;
          for (let e = 1; e < unit; e++) {
            sum = `fma(d${e}, x${row}_${e >> 2}.${XYZW[e & 3]}, ${sum})`;
          }
          return sum;
        };
        const scale = scaleOf(u, f, i, r);
        const name = (row: number) => `s${i}_${r}_${row}`;
        return `{
${scale}
${unroll(unit, (e) => `let d${e} = ${f.weight(`w${u}_${i}_${r}`, e)};`)}
${
          unroll(
            m,
            (row) =>
              scale
                ? f.shifted && !shared(f)
                  ? `${name(row)} = fma(k.x, ${product(row)}, fma(k.y, z${row}, ${name(row)}));`
                  : `${name(row)} = fma(k, ${product(row)}, ${name(row)});`
                : `${name(row)} += ${product(row)};`,
          )
        }
}`;
      })
    }
}`;
  return `
let units = p.k / ${unit}u;
${unroll(rows, (r) => `let row${r} = min(first + ${r}u, n - 1u);`)}
${
    weights((f, i) =>
      own(f, (j) =>
        `let own_row${i}_${j} = min(first + ${j * sharers(f)}u + t % ${sharers(f)}u, n - 1u);` +
        (f.shifted
          ? unroll(m, (row) => `\nvar shift${i}_${j}_${row} = 0.0;`)
          : ""))
    ).join("\n")
  }
${
    weights((f, i) =>
      f.rowScale ? unroll(rows, (r) => `let k_${i}_${r} = ${f.scale(tags[i], `row${r}`, "")};`) : ""
    ).join("\n")
  }
for (var base = 0u; base < units; base += ${lanes * ahead}u) {
${unroll(ahead, loads)}
${unroll(ahead, use)}
}
${
    each((f, i, r) => {
      if (!f.shifted || !shared(f)) return "";
      const [j, lane] = [Math.floor(r / sharers(f)), r % sharers(f)];
      const isOwn = `t % ${sharers(f)}u == ${lane}u`;
      return unroll(
        m,
        (row) => `s${i}_${r}_${row} += select(0.0, shift${i}_${j}_${row}, ${isOwn});`,
      );
    })
  }`;
}

/** The names of a task's sums: weights (of a gated task both), rows, rows of x; then the sums of squares. */
function sums(task: StreamTask, plan: StreamPlan): string[] {
  const names: string[] = [];
  for (let i = 0; i < (task.gated ? 2 : 1); i++) {
    for (let r = 0; r < plan.rows; r++) {
      for (let row = 0; row < task.m; row++) names.push(`s${i}_${r}_${row}`);
    }
  }
  if (task.norm) { for (let row = 0; row < task.m; row++) names.push(`q${row}`); }
  return names;
}

/** The WGSL. Bindings: x, parameters, a result for each weight (one if gated), gain, what is added, biases, and the weights'. */
export function streamSource(
  formats: readonly WeightFormat[],
  task: StreamTask,
  plan: StreamPlan,
): string {
  const { m, gated, norm, add, biases } = task;
  const { rows, lanes } = plan;
  const groups = groupsOf(plan);
  const outputs = gated ? 1 : formats.length;
  const gainBinding = 2 + outputs;
  const addBinding = gainBinding + (norm ? 1 : 0);
  let binding = addBinding + (add ? 1 : 0);
  const biasBindings = biases.map((present, i) =>
    present ? `@group(0) @binding(${binding++}) var<storage, read> bias${i}: array<f32>;` : ""
  ).join("\n");
  const names = sums(task, plan);
  const values = rows * m;
  const { declare, code } = combined(names, plan);
  const declared = formats.map((f, i) => {
    const text = f.declare(binding, String(i));
    binding += f.bindings.length;
    return text;
  }).join("\n");
  const common = Object.values(Object.assign({}, ...formats.map((f) => f.common))).join("\n");
  const prepare = [...new Set(formats.map((f) => f.prepare))].join("\n");
  const part = (i: number) => `
first += (group - ${i === 0 ? "0u" : `p.end${i - 1}`}) * ${groups * rows}u;
n = p.n${i};
${loop(gated ? formats : [formats[i]], gated ? ["0", "1"] : [String(i)], task, plan)}`;
  const parts = outputs === 1 ? part(0) : Array.from(
    { length: outputs },
    (_, i) => `${i < outputs - 1 ? `if (group < p.end${i}) ` : ""}{\n${part(i)}\n}`,
  ).join(" else ");
  const norms = norm
    ? `let scale = inverseSqrt(total(slot, ${
      names.length - m
    }u + v % ${m}u) / f32(p.k) + p.epsilon);`
    : "";
  const value = `${norm ? "scale * " : ""}total(slot, v)`;
  const write = (i: number) =>
    `y${i}[at] = sum${biases[i] ? ` + bias${i}[row]` : ""}${add ? " + d[at]" : ""};`;
  const writes = outputs === 1 ? write(0) : Array.from(
    { length: outputs },
    (_, i) => `${i < outputs - 1 ? `if (group < p.end${i}) ` : ""}{ ${write(i)} }`,
  ).join(" else ");
  return `
struct Stream { k: u32, epsilon: f32, alpha: f32, n0: u32, n1: u32, n2: u32, end0: u32, end1: u32 }
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<uniform> p: Stream;
${
    unroll(outputs, (i) =>
      `@group(0) @binding(${2 + i}) var<storage, read_write> y${i}: array<f32>;`)
  }
${norm ? `@group(0) @binding(${gainBinding}) var<storage, read> gain: array<vec4<f32>>;` : ""}
${add ? `@group(0) @binding(${addBinding}) var<storage, read> d: array<f32>;` : ""}
${biasBindings}
${declared}
${common}
${declare}

@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let group = w.y * grid.x + w.x;
  let lane = t % ${lanes}u;
  let k4 = p.k / 4u;
  // The first row of this group of lanes, and how many rows its weight has.
  var first = t / ${lanes}u * ${rows}u;
  var n = 0u;
  ${prepare}
  ${names.map((name) => `var ${name} = 0.0;`).join("\n")}
  ${parts}
  ${code}
  let first_of_group = first - t / ${lanes}u * ${rows}u;
  for (var i = t; i < ${groups * values}u; i += ${THREADS}u) {
    let slot = i / ${values}u;
    let v = i % ${values}u;
    let row = first_of_group + slot * ${rows}u + v / ${m}u;
    if (row < n) {
      let at = v % ${m}u * n + row;
      ${norms}
      ${
    gated
      ? `let gate = ${value};
      let sum = gate / (1.0 + exp(-gate)) * ${norm ? "scale * " : ""}total(slot, v + ${values}u);`
      : `let sum = p.alpha * ${value};`
  }
      ${writes}
    }
  }
}
`;
}
