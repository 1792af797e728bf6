/**
 * Saving a run, and going on with it as if it had never stopped.
 *
 * @module
 */
import { sameShape, showShape } from "../core/shape.ts";
import type { Tensor } from "../core/tensor.ts";
import { SafetensorsFile, type TensorData, writeSafetensors } from "./files/safetensors.ts";
import type { Trainer } from "./loop.ts";

/** What a checkpoint holds: the trainable parameters, AdamW's moments of each, and what adapters keep between steps. */
function* tensorsOf(trainer: Trainer): Generator<[name: string, tensor: Tensor]> {
  const { parameters, optimizer } = trainer.inner;
  for (const { name, tensor } of parameters.segments) yield [`parameter.${name}`, tensor];
  yield ["optimizer.first", optimizer.first];
  yield ["optimizer.second", optimizer.second];
  for (const adapter of trainer.model.adapters) {
    for (const [name, tensor] of adapter.state?.() ?? []) yield [`state.${name}`, tensor];
  }
}

/**
 * Writes a run's state into one safetensors file: trainable parameters, both moments, and the number of steps made. The order of
 * the data and the masks of dropout follow from the seed and the step, so nothing else is needed.
 *
 * @param trainer the run; all its queued steps are finished first
 * @param path where to; the file is replaced whole
 *
 * @example
 * ```ts ignore
 * for await (const { step } of trainer.run(100)) console.log(step);
 * await saveCheckpoint(trainer, "run.safetensors");
 * ```
 */
export async function saveCheckpoint(trainer: Trainer, path: string): Promise<void> {
  const entries = await Promise.all(
    Array.from(tensorsOf(trainer), async ([name, tensor]) => {
      const data = await tensor.read();
      return [name, { dtype: "F32", shape: tensor.shape, data } as TensorData] as const;
    }),
  );
  const metadata = {
    format: "pt",
    "nibble.steps": `${trainer.step}`,
    "nibble.tokens": `${trainer.tokens}`,
    "nibble.run": trainer.identity,
  };
  await writeSafetensors(path, new Map(entries), metadata);
}

/** What two runs' identities do not have in common, each as JSON. */
function differences(found: string | undefined, wanted: string): [found: string, wanted: string] {
  const own: Record<string, unknown> = JSON.parse(wanted);
  let other: Record<string, unknown>;
  try {
    other = Object(JSON.parse(found ?? "{}"));
  } catch {
    return [found ?? "nothing", wanted];
  }
  const same = (key: string) => JSON.stringify(other[key]) === JSON.stringify(own[key]);
  const rest = (fields: Record<string, unknown>) =>
    JSON.stringify(Object.fromEntries(Object.entries(fields).filter(([key]) => !same(key))));
  return [rest(other), rest(own)];
}

/**
 * Takes a run's state from a file that `saveCheckpoint` wrote. The steps that follow are bit-identical to those of a run that was
 * not stopped, on the same adapter.
 *
 * @param trainer a run that was made with the same model, data and options
 * @param path the file
 * @throws {TypeError} if the file is not a checkpoint, or of a run with other options
 * @throws {RangeError} if its parameters are not those of this run
 */
export async function loadCheckpoint(trainer: Trainer, path: string): Promise<void> {
  using file = await SafetensorsFile.open(path);
  const steps = Number(file.metadata["nibble.steps"] ?? NaN);
  if (!Number.isSafeInteger(steps)) {
    throw new TypeError(
      `Cannot resume from "${path}": it is not a checkpoint of nibble; wanted one that saveCheckpoint wrote`,
    );
  }
  const run = file.metadata["nibble.run"];
  if (run !== trainer.identity) {
    const [found, wanted] = differences(run, trainer.identity);
    throw new TypeError(
      `Cannot resume from "${path}": it was made with ${found}, this run has ${wanted}; use the same options, or begin anew`,
    );
  }
  for (const [name, { shape }] of tensorsOf(trainer)) {
    const entry = file.entries.get(name);
    if (!entry || !sameShape(entry.shape, shape)) {
      throw new RangeError(
        `Cannot resume from "${path}": wanted "${name}" of shape ${showShape(shape)}, found ${
          entry ? showShape(entry.shape) : "nothing"
        }; was the model or its adapter another one?`,
      );
    }
  }
  for (const [name, tensor] of tensorsOf(trainer)) {
    trainer.model.device.write(tensor, await file.readFloats(name));
  }
  trainer.step = steps;
  trainer.tokens = Number(file.metadata["nibble.tokens"]) || 0;
}
