/**
 * Whole training steps and answers, on models with random weights of real shapes.
 *
 * @module
 */
import type { Device } from "../../core/device.ts";
import { decodingWork, prefillWork } from "./decoding.ts";
import { askNvidia, type GpuState } from "../nvidia.ts";
import type { SkippedRow } from "../report.ts";
import { GPT_D512, GPT_D64, LLAMA_7B, SMOLLM2 } from "./shapes.ts";
import { trainingWork } from "./training.ts";
import type { Measured, MeasureOptions, Work, WorkSize } from "./work.ts";

const R16_ALL = { r: 16, alpha: 32, targetModules: "all-linear" } as const;
const R8_QV = { r: 8, alpha: 16, targetModules: ["q_proj", "v_proj"] } as const;

/** All rows. */
export const WORKS: readonly Work[] = [
  ...([4, 16] as const).map((rows) =>
    trainingWork({
      kind: "qlora",
      model: SMOLLM2,
      variant: "r16-all",
      batch: [rows, 512],
      lora: R16_ALL,
    })
  ),
  ...([[4, 512], [1, 128]] as const).map((batch) =>
    trainingWork({ kind: "qlora", model: SMOLLM2, variant: "r8-qv", batch, lora: R8_QV })
  ),
  trainingWork({
    kind: "qlora",
    model: SMOLLM2,
    variant: "r16-all 22-kept",
    batch: [4, 512],
    lora: R16_ALL,
    training: { checkpointing: { keep: 22 } },
  }),
  trainingWork({
    kind: "qlora",
    model: SMOLLM2,
    variant: "r16-all half-activations",
    batch: [4, 512],
    lora: R16_ALL,
    training: { activations: "f16" },
  }),
  trainingWork({ kind: "full", model: SMOLLM2, batch: [4, 512] }),
  decodingWork(SMOLLM2, { prompt: 16, answer: 256 }),
  prefillWork(SMOLLM2, 512),
  ...(["f32", "int8", "int4", "w8a8", "q4_0"] as const).flatMap((layers) => [
    decodingWork(SMOLLM2, { prompt: 16, answer: 256 }, layers),
    prefillWork(SMOLLM2, 512, layers),
  ]),
  trainingWork({ kind: "full", model: GPT_D512, batch: [8, 256] }),
  trainingWork({ kind: "full", model: GPT_D64, batch: [2, 32] }),
  trainingWork({
    kind: "qlora",
    model: LLAMA_7B,
    variant: "r16-all checkpointed",
    batch: [1, 512],
    lora: R16_ALL,
    // The last block costs no memory: it is freed before the first is computed again.
    training: { checkpointing: { keep: 1 } },
  }),
  trainingWork({
    kind: "qlora",
    model: LLAMA_7B,
    variant: "r8-qv",
    batch: [1, 512],
    lora: R8_QV,
  }),
  ...(["nf4", "f32", "f16", "int8", "int4", "w8a8", "w4a8"] as const).flatMap((layers) => [
    decodingWork(LLAMA_7B, { prompt: 16, answer: 256 }, layers),
    prefillWork(LLAMA_7B, 512, layers),
  ]),
];

/** A row's result. */
export interface EndToEndTiming extends Measured {
  /** The row's name. */
  readonly name: string;
  /** As in `Measured`, less what was in use before the first device was opened. */
  readonly driverBytes: number | null;
}

/** What is measured. */
export interface EndToEndOptions extends MeasureOptions {
  /** Only rows whose name contains this. */
  readonly filter?: string;
  /** The lengths; by default tiny ones on software adapters. */
  readonly sizes?: WorkSize;
  /** Other rows than all of nibble's. */
  readonly works?: readonly Work[];
  /** Called with each result as it comes. */
  readonly onResult?: (result: EndToEndTiming) => void;
  /** Called with a row that fails, as where it does not fit into the GPU's memory. Without it such a row throws. */
  readonly onSkip?: (row: SkippedRow) => void;
}

/** A closed device's memory is free some time later; at most so long. */
const SETTLE_MILLISECONDS = 3000;
const SETTLE_BYTES = 64 << 20;

/** Waits until the memory of the last row's device is free. */
async function settled(idle: GpuState | null): Promise<void> {
  const start = performance.now();
  while (idle && performance.now() - start < SETTLE_MILLISECONDS) {
    const now = await askNvidia();
    if (!now || now.usedBytes - idle.usedBytes < SETTLE_BYTES) return;
    await new Promise((done) => setTimeout(done, 100));
  }
}

/**
 * Measures whole steps and answers. Each row has a device of its own, so that its first run is cold, and its memory its own.
 *
 * @param open opens a device; it is closed after the row
 * @param options which rows, at which lengths
 * @throws {RangeError} if no row's name contains the filter
 *
 * @example
 * ```ts
 * import { openDevice } from "@nibble/nibble";
 * import { benchEndToEnd } from "./run.ts";
 *
 * for (const { name, tokensPerSecond } of await benchEndToEnd(openDevice, { filter: "decode" })) {
 *   console.log(name, tokensPerSecond);
 * }
 * ```
 */
export async function benchEndToEnd(
  open: () => Promise<Device>,
  options: EndToEndOptions = {},
): Promise<EndToEndTiming[]> {
  const { filter = "", works = WORKS, onResult, onSkip, ...measuring } = options;
  const chosen = works.filter(({ name }) => name.includes(filter));
  if (chosen.length === 0) {
    const names = works.map(({ name }) => name).join(", ");
    throw new RangeError(`Cannot bench "${filter}": no row has it in its name. There are ${names}`);
  }
  const found: EndToEndTiming[] = [];
  const idle = await askNvidia();
  for (const work of chosen) {
    await settled(idle);
    using device = await open();
    const size = options.sizes ?? (device.adapter.type === "gpu" ? "full" : "tiny");
    let measured: Measured;
    try {
      measured = await work.measure(device, size, measuring);
    } catch (error) {
      if (!onSkip) throw error;
      onSkip({ name: work.name, reason: (error as Error).message });
      continue;
    }
    const driverBytes = idle && measured.driverBytes !== null
      ? measured.driverBytes - idle.usedBytes
      : null;
    const result: EndToEndTiming = { name: work.name, ...measured, driverBytes };
    found.push(result);
    onResult?.(result);
  }
  return found;
}
