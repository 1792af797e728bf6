/**
 * Choosing tokens with many workgroups for each row: one token of a large vocabulary is wanted at a time.
 *
 * @module
 */
import { floatBits, type Uniform, uniform } from "../../core/binding.ts";
import { kernel } from "../../core/kernel.ts";
import randomCode from "../../core/random.wgsl" with { type: "text" };
import { rowsAndColumns } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import { unrolled } from "../quads.ts";
import { ROWS_WGSL } from "../rows.ts";
import bestCode from "./sample_best.wgsl" with { type: "text" };
import drawCode from "./sample_draw.wgsl" with { type: "text" };
import largestCode from "./sample_largest.wgsl" with { type: "text" };
import mergeCode from "./sample_merge.wgsl" with { type: "text" };
import passCode from "./sample_pass.wgsl" with { type: "text" };
import scanCode from "./sample_scan.wgsl" with { type: "text" };
import selectCode from "./sample_select.wgsl" with { type: "text" };

/** Logits of a part, and invocations of its workgroup. */
const PART = 2048;
const THREADS = 256;

const selecting = (code: string) =>
  `const PART = ${PART}u;\nconst THREADS = ${THREADS}u;\n` + selectCode +
  unrolled(code, PART / THREADS);
const largestKernel = kernel("sample_largest", ROWS_WGSL + selecting(largestCode));
// The bins are atomic where they are filled, so the scan reads them there through a function.
const passKernel = kernel(
  "sample_pass",
  ROWS_WGSL + selecting(
    scanCode.replace("bins[at]", "atomicLoad(&all_bins[at])")
      .replace("bins[at + 256u]", "atomicLoad(&all_bins[at + 256u])") + passCode,
  ),
);
const drawKernel = kernel("sample_draw", randomCode + selecting(scanCode + bestCode + drawCode));
const mergeKernel = kernel("sample_merge", bestCode + mergeCode);

/** The options of `sample`, complete. */
export interface SampleSettings {
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
}

/** As `sample`, which checks the operands. */
export function sampleMany(logits: Tensor, settings: SampleSettings, state: Tensor): Tensor {
  const { device } = logits;
  const [rows, classes] = rowsAndColumns(logits);
  const { temperature, topP } = settings;
  const topK = temperature > 0 && settings.topK < classes ? settings.topK : 0;
  const parts = Math.ceil(classes / PART);
  const grid = [parts, rows] as const;
  const params = (index: number): Uniform =>
    uniform(
      rows,
      classes,
      topK,
      floatBits(topP),
      floatBits(temperature),
      state.size > 2 ? 1 : 0,
      index,
    );
  const passes = temperature > 0
    ? [...(topK > 0 ? [0, 1, 2, 3] : []), ...(topP < 1 ? [4, 5, 6, 7] : [])]
    : [];
  const isPlain = passes.length === 0;
  const bins = empty(device, isPlain ? [1] : [rows, 8, 512], "u32");
  const selections = empty(device, isPlain ? [4] : [rows, 8, 4], "u32");
  if (!isPlain) {
    const largest = empty(device, [rows, parts]);
    device.dispatch(largestKernel, [logits, largest, bins, params(0)], grid, {
      LANES: THREADS,
      ROWS: 1,
    });
    for (const index of passes) {
      const bindings = [logits, largest, bins, selections, params(index)];
      device.dispatch(passKernel, bindings, grid, { LANES: THREADS, ROWS: 1 });
    }
  }
  const out = empty(device, [rows], "i32");
  const known = (passes.at(-1) ?? -1) + 1;
  const bindings = [logits, state, bins, selections];
  const best = empty(device, [rows, parts, 2], "u32");
  device.dispatch(drawKernel, [...bindings, best, params(known)], grid);
  device.dispatch(mergeKernel, [best, out, uniform(parts)], [rows]);
  return out;
}
