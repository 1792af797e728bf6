/**
 * What is measured whole, and what is said about it.
 *
 * @module
 */
import type { Device } from "../../core/device.ts";
import type { Profile } from "../profile.ts";
import { askNvidia } from "../nvidia.ts";
import type { ModelShape } from "./shapes.ts";
import type { SampleOptions } from "./sampling.ts";

/** Which lengths: those of tests, or the ones that the row is named after. */
export type WorkSize = "tiny" | "full";

/** What a measurement found. */
export interface Measured {
  /** The lengths, such as "batch=4 length=512". */
  readonly shape: string;
  /** Milliseconds of one run (a training step, a token, a prompt), warm: the median of all samples. */
  readonly ms: number;
  /** The shortest. */
  readonly minMs: number;
  /** The longest. */
  readonly maxMs: number;
  /** Tokens in a second, by the median. */
  readonly tokensPerSecond: number;
  /** The first run, with all that it compiles, in milliseconds. */
  readonly coldMs: number;
  /** The part of it that compiling took. */
  readonly compileMs: number;
  /** Kernels that it compiled. */
  readonly pipelines: number;
  /** Dispatches of one run. */
  readonly dispatches: number;
  /** The most bytes that tensors held at once, the model included. */
  readonly peakBytes: number;
  /** Bytes that the device had allocated at the end. */
  readonly reservedBytes: number;
  /** Bytes in use on the GPU at the end, by the driver's word, all processes together; null without nvidia-smi. */
  readonly driverBytes: number | null;
  /** The GPU's clock beside the measurement, in MHz; null where it cannot be measured. */
  readonly clockMhz: number | null;
  /** Where the time of one run goes, if it was asked for. */
  readonly profile?: Profile;
}

/** How work is measured. */
export interface MeasureOptions extends SampleOptions {
  /** Profile one run, too. */
  readonly profile?: boolean;
}

/** One row: a model and what it does. */
export interface Work {
  /** What a filter finds it by, such as "qlora smollm2 r16-all 4x512". */
  readonly name: string;
  /** The model's shape. */
  readonly model: ModelShape;
  /** Builds the model, measures, and frees everything. */
  measure(device: Device, size: WorkSize, options: MeasureOptions): Promise<Measured>;
}

/** Counts what the first run costs. */
export class ColdRun {
  readonly #device: Device;
  readonly #start = performance.now();
  readonly #before: Device["counters"];

  /** Starts the clock. */
  constructor(device: Device) {
    this.#device = device;
    this.#before = device.counters;
  }

  /** Stops it. */
  end(): Pick<Measured, "coldMs" | "compileMs" | "pipelines"> {
    const { pipelines, compileMilliseconds } = this.#device.counters;
    return {
      coldMs: performance.now() - this.#start,
      compileMs: compileMilliseconds - this.#before.compileMilliseconds,
      pipelines: pipelines - this.#before.pipelines,
    };
  }
}

/** Memory since the last `resetPeak`. */
export async function memoryOf(
  device: Device,
): Promise<Pick<Measured, "peakBytes" | "reservedBytes" | "driverBytes">> {
  const { peak, reserved } = device.memory;
  const state = await askNvidia();
  return { peakBytes: peak, reservedBytes: reserved, driverBytes: state?.usedBytes ?? null };
}
