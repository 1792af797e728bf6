/** `nibble quantize --explain`: a small matrix in several schemes, with every number on the way. */
import { z } from "zod";
import type { AffineScheme } from "../kernels/quant/affine.ts";
import {
  type ExplainedGroup,
  explainOverflow,
  explainQuantization,
  type Explanation,
} from "../kernels/quant/explain.ts";
import type { FourBitType } from "../kernels/quant/tables.ts";
import type { TensorSource } from "../train/files/safetensors.ts";
import type { OptionCheck } from "./option_check.ts";
import type { ChoiceOf } from "./options.ts";
import { printJson, printLine, significant, table } from "./print.ts";

/** The schemes by the names that `--schemes` takes. */
const SCHEMES: Readonly<Record<string, AffineScheme | FourBitType>> = {
  int8: { bits: 8, kind: "symmetric" },
  "int8-full": { bits: 8, kind: "symmetric-full" },
  "int8-asymmetric": { bits: 8, kind: "asymmetric" },
  int4: { bits: 4, kind: "symmetric" },
  "int4-full": { bits: 4, kind: "symmetric-full" },
  "int4-asymmetric": { bits: 4, kind: "asymmetric" },
  nf4: "nf4",
  fp4: "fp4",
};

const TITLES: Readonly<Record<string, string>> = {
  int8: "INT8, symmetric, restricted to −127 to 127",
  "int8-full": "INT8, symmetric, full range −128 to 127",
  "int8-asymmetric": "INT8, asymmetric, 0 to 255 with a zero point",
  int4: "INT4, symmetric, restricted to −7 to 7",
  "int4-full": "INT4, symmetric, full range −8 to 7",
  "int4-asymmetric": "INT4, asymmetric, 0 to 15 with a zero point",
  nf4: "NF4, a table of 16 numbers",
  fp4: "FP4, a table of 16 numbers",
};

const NAMES = Object.keys(SCHEMES) as [string, ...string[]];
const GRANULARITIES = ["tensor", "channel", "group"] as const;
const GROUP = "Explaining";

/** The flags of `--explain`. */
export const EXPLAIN_OPTIONS = {
  explain: z.boolean().default(false).meta({
    description: "write nothing, but show every number on the way, of --values or of a --tensor",
    group: GROUP,
  }),
  values: z.string().min(1).optional().meta({
    description: "the numbers: separated by commas, rows by semicolons",
    placeholder: "NUMBERS",
    group: GROUP,
  }),
  tensor: z.string().min(1).optional().meta({
    description: "a tensor of --model instead",
    placeholder: "NAME",
    group: GROUP,
  }),
  part: z.string().min(1).optional().meta({
    description:
      "which rows and columns of the tensor, as a matrix of their own; 0:4,0:8, or less of a smaller one",
    placeholder: "FROM:TO,FROM:TO",
    group: GROUP,
  }),
  schemes: z.array(z.enum(NAMES)).min(1).optional().meta({
    description: "which; all but fp4 by default",
    group: GROUP,
  }),
  granularity: z.array(z.enum(GRANULARITIES)).min(1).optional().meta({
    description:
      "which numbers share a scale: tensor, channel (a row) or group; by default tensor, " +
      "and channel where there are several rows",
    group: GROUP,
  }),
  groupSize: z.int().min(1).default(64)
    .meta({ description: "numbers of a group", group: GROUP }),
};

/** What `EXPLAIN_OPTIONS` give, and the model. */
export interface ExplainChoice extends ChoiceOf<typeof EXPLAIN_OPTIONS> {
  readonly model?: string;
}

/** Notes what does not go together; `writing` are keys of options that say how a model is written. */
export function checkExplain<Key extends string>(
  { values, model, tensor, granularity }: ExplainChoice,
  writing: readonly Key[],
  check: OptionCheck<Key | keyof typeof EXPLAIN_OPTIONS>,
): void {
  check.refuseSaid(
    writing,
    "it says how a model is written, and --explain writes none: leave it out; " +
      "--schemes, --granularity and --group-size say what is explained",
  );
  if ((values === undefined) === (tensor === undefined)) {
    check.refuse("explain", "wanted either --values or --tensor with it");
  } else if ((tensor === undefined) !== (model === undefined)) {
    check.refuse("tensor", "wanted --model and --tensor together");
  } else if (tensor === undefined) check.refuseSaid(["part"], "wanted --tensor with it");
  if (!granularity?.includes("group")) {
    check.refuseSaid(["groupSize"], "wanted --granularity group with it");
  }
}

interface Matrix {
  readonly rows: number;
  readonly columns: number;
  readonly values: Float32Array;
}

function readValues(text: string): Matrix {
  const rows = text.split(";").map((row) => row.split(",").map((part) => part.trim()));
  const wrong = rows.flat().find((part) => part === "" || !Number.isFinite(Number(part)));
  if (wrong !== undefined) {
    throw new SyntaxError(
      `Cannot read --values: found ${JSON.stringify(wrong)}, wanted numbers such as -0.5,1.2;0.3,2`,
    );
  }
  const [{ length: columns }] = rows;
  const uneven = rows.findIndex((row) => row.length !== columns);
  if (uneven >= 0) {
    throw new SyntaxError(
      `Cannot read --values: row ${uneven} has ${
        rows[uneven].length
      } numbers, wanted ${columns} as in the first`,
    );
  }
  return { rows: rows.length, columns, values: Float32Array.from(rows.flat(), Number) };
}

/** What is shown of a tensor where nobody says it, or less where it is smaller. */
const FIRST_PART = "0:4,0:8";

/** Numbers that are shown at most: a page or two. */
const MOST = 1024;

/** A part of a tensor; where nobody says which, the first rows and columns. */
async function readPart(source: TensorSource, name: string, part?: string): Promise<Matrix> {
  const match = /^(\d+):(\d+),(\d+):(\d+)$/.exec((part ?? FIRST_PART).replaceAll(" ", ""));
  const entry = source.entries.get(name);
  if (!entry) {
    const names = [...source.entries.keys()];
    throw new RangeError(
      `Cannot read "${name}": the model has ${names.length} tensors, such as "${
        names.slice(0, 3).join('", "')
      }"; those of a GGUF file go by Hugging Face's names too`,
    );
  }
  const stored = await source.readFloats(name);
  const width = entry.shape.at(-1) ?? 1;
  const height = stored.length / width;
  const [top, bottom, left, right] = match?.slice(1).map(Number) ?? [];
  // What a user asks for has to fit.
  const [to, end] = part === undefined
    ? [Math.min(bottom, height), Math.min(right, width)]
    : [bottom, right];
  if (!match || top >= to || left >= end || to > height || end > width) {
    throw new RangeError(
      `Cannot take the part ${part} of "${name}" [${height},${width}]: wanted FROM:TO,FROM:TO, rows and columns within it`,
    );
  }
  const [rows, columns] = [to - top, end - left];
  if (rows * columns > MOST) {
    throw new RangeError(
      `Cannot explain ${rows * columns} numbers: wanted at most ${MOST}; take a smaller --part`,
    );
  }
  const values = Float32Array.from(
    { length: rows * columns },
    (_, i) => stored[(top + Math.floor(i / columns)) * width + left + i % columns],
  );
  return { rows, columns, values };
}

const number = (value: number, digits = 6) => String(Number(value.toPrecision(digits)));

function printGroup({ where, min, max, absmax, formula, numbers }: ExplainedGroup): void {
  printLine(`${where}: min ${number(min)}, max ${number(max)}, absmax ${number(absmax)}`);
  printLine(`  ${formula}`);
  printLine(table(
    ["", "x", "x / scale", "rounded", "code", "decoded", "error", ""],
    numbers.map((own) => [
      `  [${own.row},${own.column}]`,
      number(own.value),
      number(own.divided, 8),
      own.rounded,
      own.code,
      number(own.decoded),
      significant(own.error),
      own.saturated ? "saturated" : "",
    ]),
    { right: [1, 2, 3, 4, 5, 6], boxed: false },
  ));
}

function printOverflow(overflow: ReturnType<typeof explainOverflow>, right: Explanation): void {
  const { scale, overflows, numbers } = overflow;
  printLine('\n== A frequent mistake: "symmetric" with scale = (max − min) / 255');
  const beside = new Map(right.groups.flatMap(({ numbers }) => numbers).map((own, i) => [i, own]));
  printLine(table(
    [
      "x",
      "x / scale",
      "fits",
      "as a byte",
      "comes back",
      "or saturated",
      "absmax / 127",
      "comes back",
    ],
    numbers.map((own, i) => [
      number(own.value),
      own.rounded,
      own.overflows ? "no" : "yes",
      own.wrapped,
      number(own.decodedWrapped),
      number(own.decodedSaturated),
      beside.get(i)!.code,
      number(beside.get(i)!.decoded),
    ]),
    { right: [0, 1, 3, 4, 5, 6, 7], boxed: false },
  ));
  printLine(
    overflows > 0
      ? `scale ${
        number(scale)
      }: ${overflows} of ${numbers.length} do not fit into −128 to 127. That scale belongs with a zero ` +
        "point; without one, take absmax / 127"
      : `scale ${
        number(scale)
      }: these happen to fit, as min and max are about as large. With others they do not: take absmax / 127`,
  );
}

/** Explains, on stdout. */
export async function printExplanation(
  choice: ExplainChoice,
  source: TensorSource | null,
  json: boolean,
): Promise<void> {
  const { values, tensor, part, groupSize } = choice;
  const matrix = values !== undefined ? readValues(values) : await readPart(source!, tensor!, part);
  const { rows, columns } = matrix;
  const shape = [rows, columns] as const;
  const schemes = choice.schemes ?? NAMES.filter((name) => name !== "fp4");
  const granularities = choice.granularity ??
    (rows > 1 ? ["tensor", "channel"] as const : ["tensor"] as const);
  const results = schemes.flatMap((name) =>
    granularities.map((granularity) => {
      const options = { scheme: SCHEMES[name], granularity, groupSize };
      return { scheme: name, granularity, ...explainQuantization(matrix.values, shape, options) };
    })
  );
  const spread = matrix.values.some((value) => value !== matrix.values[0]);
  const overflow = spread ? explainOverflow(matrix.values) : null;
  if (json) return printJson({ shape, values: Array.from(matrix.values), results, overflow });
  for (const own of results) {
    printLine(`== ${TITLES[own.scheme]}, a scale for each ${own.granularity}`);
    own.groups.forEach(printGroup);
    printLine(
      `largest error ${significant(own.largestError)}, mean squared error ` +
        `${significant(own.meanSquaredError)}, ${own.saturated} saturated\n`,
    );
  }
  printLine(table(
    ["scheme", "scale for each", "largest error", "mean squared error", "saturated"],
    results.map((own) => [
      own.scheme,
      own.granularity,
      significant(own.largestError),
      significant(own.meanSquaredError),
      own.saturated,
    ]),
    { right: [2, 3, 4] },
  ));
  if (overflow) {
    const right = explainQuantization(matrix.values, shape, { scheme: SCHEMES.int8 });
    printOverflow(overflow, right);
  }
}
