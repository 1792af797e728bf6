/**
 * Recording a step once for each shape of its inputs, and replaying it.
 *
 * @module
 */
import type { Command } from "./commands.ts";
import type { Device } from "./device.ts";
import type { Entry } from "./binding.ts";
import { type ActivationType, keepingHalves } from "./halves.ts";
import { inOrder, schedule } from "./schedule.ts";
import { planMemory, type PlannedBlock, releasePlan, usedEntries } from "./plan.ts";
import { Storage } from "./pool.ts";
import { showShape } from "./shape.ts";
import { dtypeOf, empty, type Tensor, tensor, type TypedArray } from "./tensor.ts";

/** An input of a captured step on the host: numbers and their shape. */
export interface HostArray {
  /** The numbers, row-major. */
  readonly data: TypedArray;
  /** Their shape. */
  readonly shape: readonly number[];
}

/** What a captured step can be called with. */
export type StepInput = HostArray | Tensor;

/** What a step may return: tensors, which the next call overwrites. */
export type StepResult = Tensor | readonly Tensor[] | Readonly<Record<string, Tensor>> | void;

/** How `capture` works. */
export interface CaptureOptions {
  /**
   * `false` runs every call eagerly, for debugging, and keeps what `recompute` would compute again; the results are bit-identical to
   * those of a recording that does so too. Default `true`.
   */
  readonly replay?: boolean;
  /**
   * Whether work that does not depend on each other is put side by side, so that the adapter can run it at the same time: by default
   * on GPUs. It takes some more memory; the results are bit-identical.
   */
  readonly overlap?: boolean;
  /**
   * Whether what is cheap to compute, such as a normalization, is computed again in the backward pass instead of being kept: by
   * default on GPUs. It takes less memory and a little more time; the results are bit-identical, but with activations in "f16", of
   * which those that are computed again are not rounded.
   */
  readonly recompute?: boolean;
  /**
   * What the forward pass keeps for the backward pass: "f32" by default; with "f16" it is rounded to 16-bit floats, for about half of
   * its memory. Both passes compute in 32 bits. Gradients change a little; results of the forward pass do not.
   */
  readonly activations?: ActivationType;
}

/** A step that `capture` made: call it with the step's inputs, as tensors or as numbers on the host. */
export interface CapturedStep<R extends StepResult> extends Disposable {
  /** Runs the step; what it returns is overwritten by the next call. */
  (...inputs: StepInput[]): R;
  /**
   * Records the step for inputs of these shapes, if that was not done, without running it: `device.memory.live` then holds all that
   * it will ever take.
   */
  record(...inputs: StepInput[]): void;
  /** Gives the memory of all recordings back, results included. The next call records anew. */
  dispose(): void;
}

/** So many shapes are recorded at most: more means that a length changes where it should be padded. */
const MOST_PLANS = 8;

/** The recording in progress: work that is listed but not run, and memory that is not there yet. */
export class Recorder {
  /** The recorded work. */
  readonly entries: Entry[] = [];
  /** Tensors whose `grad` the recording has set. */
  readonly leaves: Set<Tensor> = new Set();
  /** Memory of constants that were uploaded during the recording: it is real, and lives as long as the plan. */
  readonly owned: Storage[] = [];
  /** Whether what is recomputable is computed again. */
  readonly recompute: boolean;

  /** Of a step that computes some things again, or keeps them. */
  constructor(recompute: boolean = false) {
    this.recompute = recompute;
  }

  /** Appends work. */
  add(entry: Entry): void {
    this.entries.push(entry);
  }

  /** Memory that the plan will provide. */
  allocate(bytes: number): Storage {
    return new Storage(bytes, null);
  }

  /** Keeps memory that an upload took. */
  own(storage: Storage): void {
    this.owned.push(storage);
  }
}

/** A recorded step. */
interface Plan<R> {
  readonly inputs: readonly Tensor[];
  readonly commands: readonly Command[];
  readonly result: R;
  /** The blocks of what the step computes. */
  readonly blocks: readonly PlannedBlock[];
  /** What was uploaded: constants. */
  readonly owned: readonly Storage[];
}

function release<R>(device: Device, plan: Plan<R>): void {
  releasePlan(plan.blocks, device.pool);
  for (const storage of plan.owned.toReversed()) device.free(storage);
  for (const input of plan.inputs.toReversed()) input.dispose();
}

function isTensor(input: StepInput): input is Tensor {
  return "device" in input;
}

function keyOf(inputs: readonly StepInput[]): string {
  return inputs.map((input) =>
    (isTensor(input) ? input.dtype : dtypeOf(input.data)) + showShape(input.shape)
  ).join(" ");
}

function tensorsIn(result: StepResult): readonly Tensor[] {
  if (!result) return [];
  if (Array.isArray(result)) return result;
  return "device" in result ? [result as Tensor] : Object.values(result as Record<string, Tensor>);
}

function setInput(device: Device, fixed: Tensor, input: StepInput): void {
  if (isTensor(input)) device.copy(input, fixed);
  else device.write(fixed, input.data);
}

function record<R extends StepResult>(
  device: Device,
  step: (...inputs: Tensor[]) => R,
  inputs: readonly StepInput[],
  { overlap, recompute }: Required<Pick<CaptureOptions, "overlap" | "recompute">>,
): Plan<R> {
  const fixed = inputs.map((input) =>
    device.keep(empty(device, input.shape, isTensor(input) ? input.dtype : dtypeOf(input.data)))
  );
  const recorder = new Recorder(recompute);
  device.recorder = recorder;
  let result: R;
  try {
    result = step(...fixed);
  } finally {
    device.recorder = null;
  }
  if (result instanceof Promise) {
    throw new TypeError("Cannot capture an async step: pass a function that is not async");
  }
  const pinned = new Set(tensorsIn(result).map((t) => t.storage));
  for (const leaf of recorder.leaves) if (leaf.grad) pinned.add(leaf.grad.storage);
  const entries = usedEntries(recorder.entries, pinned);
  const work = overlap ? schedule(entries, device) : inOrder(entries);
  const blocks = planMemory(work, pinned, device.pool);
  return {
    inputs: fixed,
    commands: work.flatMap(({ entry, part }, index): Command[] => {
      const own = device.resolve(entry);
      return part > (work[index - 1]?.part ?? 0) ? [{ kind: "cut" }, ...own] : own;
    }),
    result,
    blocks,
    owned: recorder.owned,
  };
}

/**
 * Records `step` once for each shape of its inputs, and replays the recording at each call. The body is ordinary code; between
 * calls nothing of it runs but the GPU's work, so what changes per step (learning rate, position, seed) must be in an input or in
 * another tensor that is written before the call.
 *
 * Tensors made in the step live in memory that the plan owns, shared among those whose lives do not overlap. The plan keeps it
 * until `dispose`.
 *
 * @param device the device of all tensors in the step
 * @param step what to record; it may not read tensors, nor be async
 * @param options `replay: false` runs eagerly
 * @returns a function with the step's inputs, as tensors or as numbers on the host; what it returns is overwritten by the next
 * call, and gone after its `dispose()`
 * @throws {TypeError} if the step reads a tensor or returns a promise
 * @throws {RangeError} on the ninth different shape of inputs
 *
 * @example
 * ```ts
 * import { add, capture, openDevice, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const offset = tensor(device, new Float32Array([10, 20]));
 * const step = capture(device, (x) => add(x, offset));
 * for (const data of [new Float32Array([1, 2]), new Float32Array([3, 4])]) {
 *   console.log(await step({ data, shape: [2] }).read());
 * }
 * ```
 */
export function capture<R extends StepResult>(
  device: Device,
  step: (...inputs: Tensor[]) => R,
  options: CaptureOptions = {},
): CapturedStep<R> {
  const { activations = "f32" } = options;
  if (activations !== "f32" && activations !== "f16") {
    throw new RangeError(`Cannot keep activations in "${activations}": wanted "f32" or "f16"`);
  }
  const given = step;
  step = (...inputs) => keepingHalves(activations === "f16", () => given(...inputs));
  if (options.replay === false) return eager(device, step);
  const isGpu = device.adapter.type === "gpu";
  const { overlap = isGpu, recompute = isGpu } = options;
  const plans = new Map<string, Plan<R>>();
  const planFor = (inputs: readonly StepInput[]) => {
    if (device.recorder) throw new TypeError("Cannot call a captured step inside capture()");
    const key = keyOf(inputs);
    let plan = plans.get(key);
    if (!plan) {
      if (plans.size >= MOST_PLANS) {
        throw new RangeError(
          `Cannot record inputs ${key}: ${MOST_PLANS} shapes are recorded already ` +
            `(${[...plans.keys()].join("; ")}). Pad the inputs to a few lengths`,
        );
      }
      plans.set(key, plan = record(device, step, inputs, { overlap, recompute }));
    }
    return plan;
  };
  const call = (...inputs: StepInput[]) => {
    const plan = planFor(inputs);
    inputs.forEach((input, index) => setInput(device, plan.inputs[index], input));
    device.enqueue(plan.commands);
    return plan.result;
  };
  const dispose = () => {
    for (const plan of [...plans.values()].reverse()) release(device, plan);
    plans.clear();
  };
  return Object.assign(call, {
    record: (...inputs: StepInput[]) => void planFor(inputs),
    dispose,
    [Symbol.dispose]: dispose,
  });
}

function eager<R extends StepResult>(
  device: Device,
  step: (...inputs: Tensor[]) => R,
): CapturedStep<R> {
  let previous: readonly Tensor[] = [];
  const forget = () => {
    for (const t of previous) t.dispose();
    previous = [];
  };
  const call = (...inputs: StepInput[]) => {
    forget();
    const result = device.scope(() =>
      step(
        ...inputs.map((input) => isTensor(input) ? input : tensor(device, input.data, input.shape)),
      )
    );
    previous = tensorsIn(result);
    for (const t of previous) device.keep(t);
    return result;
  };
  return Object.assign(call, { record() {}, dispose: forget, [Symbol.dispose]: forget });
}
