/** `nibble train`: fine-tunes an adapter, or all weights, and saves it. */
import { z } from "zod";
import { openDevice } from "../core/device.ts";
import { saveAdapter } from "../train/adapters/peft.ts";
import { loadCheckpoint, saveCheckpoint } from "../train/checkpoint.ts";
import { Trainer, type TrainMemory, type TrainProgress } from "../train/loop.ts";
import type { ParameterCount } from "../train/models/language_model.ts";
import { loadModel } from "../train/models/load.ts";
import { saveModel } from "../train/models/save.ts";
import { type Command, defineCommand } from "./command.ts";
import { FIELD_OPTIONS } from "./field_options.ts";
import type { OptionCheck } from "./option_check.ts";
import { jsonSwitch } from "./options.ts";
import { MODEL_OPTIONS, modelFolder } from "./model_options.ts";
import { loraNotes } from "./lora_notes.ts";
import { checkOut, checkOutFile, checkOutFolder } from "./out_folder.ts";
import {
  bytes,
  counted,
  curve,
  duration,
  grouped,
  percent,
  printError,
  printJson,
  printLine,
  type Say,
  sayUnless,
} from "./print.ts";
import { progress } from "./progress.ts";
import { StepLog } from "./step_log.ts";
import {
  jsonProfile,
  profileStep,
  showTrainProfile,
  type TrainProfile,
  writeTrainTrace,
} from "./train_profile.ts";
import { checkQat, observeNote, prepareFor, QAT_OPTIONS, saveRounded } from "./train_qat.ts";
import { type Prepared, prepareModel, readData } from "./train_inputs.ts";
import { checkUse, LORA_OPTIONS, TRAINING_OPTIONS } from "./train_options.ts";

const DATA = "Data";

const OPTIONS = z.strictObject({
  ...MODEL_OPTIONS,
  out: z.string().min(1)
    .meta({ description: "where the adapter or model goes", placeholder: "FOLDER" }),
  data: z.string().min(1).optional().meta({
    description:
      "JSONL, a prompt and an answer a line, or a chat's messages; the loss is on the answers",
    placeholder: "FILE",
    group: DATA,
  }),
  text: z.string().min(1).optional().meta({
    description: "plain text; an empty line ends a document",
    placeholder: "FILE",
    group: DATA,
  }),
  ...FIELD_OPTIONS,
  limit: z.int().min(1).optional()
    .meta({ description: "use only so many examples, the first ones", group: DATA }),
  full: z.boolean().default(false)
    .meta({ description: "train all weights instead of an adapter" }),
  init: z.boolean().default(false).meta({
    description:
      "begin with random weights (with --full); the folder needs config.json and tokenizer.json",
  }),
  adapter: z.string().min(1).optional()
    .meta({ description: "go on with this PEFT adapter", placeholder: "FOLDER" }),
  teacher: z.string().min(1).optional().meta({
    description:
      "learn this model's predictions instead of the answers or the text; with --qat, the same model",
    placeholder: "FOLDER",
  }),
  dtype: z.enum(["f32", "f16"]).default("f32")
    .meta({ description: "of the weights that --full or --qat saves" }),
  ...LORA_OPTIONS,
  ...QAT_OPTIONS,
  ...TRAINING_OPTIONS,
  checkpointing: z.boolean().default(false).meta({
    description: "compute blocks again in the backward pass: less memory, more time",
    group: "Memory",
    aka: ["gradient-checkpointing"],
  }),
  activations: z.enum(["f32", "f16"]).default("f32").meta({
    description: "what the backward pass gets to read of the forward pass; f16 takes less memory",
    group: "Memory",
  }),
  keepBlocks: z.int().min(0).default(0)
    .meta({ description: "with --checkpointing, so many blocks are left out", group: "Memory" }),
  checkpoint: z.string().min(1).optional().meta({
    description: "keep the run's state in this file, and go on from it if it is there",
    placeholder: "FILE",
  }),
  checkpointEvery: z.int().min(1).default(100)
    .meta({ description: "steps between two writes of the checkpoint" }),
  profile: z.string().min(1).optional().meta({
    description:
      "say which kernels a step spends its time in, and write a trace of it for chrome://tracing",
    placeholder: "FOLDER",
    bare: "nibble-profile",
  }),
  log: z.string().min(1).optional()
    .meta({
      description: "write every step's figures as JSONL, while it runs",
      placeholder: "FILE",
    }),
  json: jsonSwitch(),
});

/** What the options of `nibble train` give. */
export type TrainChoice = z.output<typeof OPTIONS>;

function checkChoice(choice: TrainChoice, check: OptionCheck<keyof TrainChoice>): void {
  const { data, text, full, init, adapter, quantize } = choice;
  if ((data === undefined) === (text === undefined)) check.fault("wanted one of --data and --text");
  if (init && !full) check.fault("--init draws random weights, which only --full trains");
  if (choice.keepBlocks > 0 && !choice.checkpointing) {
    check.fault("--keep-blocks says how much of --checkpointing is left out: add that");
  }
  if (full && (quantize !== undefined || adapter !== undefined)) {
    check.fault("--full trains all weights: leave --quantize and --adapter out");
  }
  checkQat(choice, check);
  checkUse(choice, check);
}

/** A profiled step, and the file of its trace. */
interface Traced {
  readonly profiled: TrainProfile;
  readonly trace: string;
}

/** Runs all steps, and gives what each of them told, and the profile if one was asked for, which is shown before the other steps. */
async function runSteps(
  trainer: Trainer,
  log: StepLog,
  options: TrainChoice,
  { start, say }: { start: number; say: Say },
): Promise<{ told: TrainProgress[]; traced: Traced | null }> {
  const { checkpoint, checkpointEvery, json } = options;
  const told: TrainProgress[] = [];
  let show = (_: TrainProgress) => {};
  const run = async (until: number) => {
    for await (const one of trainer.run(until)) {
      told.push(one);
      await log.add(one);
      show(one);
    }
  };
  const { device } = trainer.model;
  let traced: Traced | null = null;
  if (options.profile !== undefined && trainer.step < trainer.steps) {
    const profiled = await profileStep(device, trainer, run, start);
    traced = { profiled, trace: await writeTrainTrace(options.profile, profiled, device) };
    say(showTrainProfile(profiled, traced.trace));
  }
  using bar = progress({ total: trainer.steps, label: "Training", json });
  show = ({ step, loss, tokensPerSecond }) =>
    bar.update(step, { loss, tokensPerSecond: tokensPerSecond || undefined });
  while (trainer.step < trainer.steps) {
    await run(checkpoint === undefined ? trainer.steps : trainer.step + checkpointEvery);
    if (checkpoint === undefined) continue;
    // The log comes first: of the steps behind the checkpoint, the next run writes the lines anew.
    await log.write();
    await saveCheckpoint(trainer, checkpoint);
  }
  return { told, traced };
}

/** Whether a checkpoint is there to go on from. */
async function isThere(path: string): Promise<boolean> {
  try {
    return (await Deno.stat(path)).isFile;
  } catch {
    return false;
  }
}

/** Says what is trained, and what is worth a second look. */
function sayModel(
  { model, lora }: Prepared,
  { total, trainable }: ParameterCount,
  options: TrainChoice,
  say: Say,
): void {
  say(
    `${options.model}: ${grouped(total)} parameters${lora ? " with the adapter" : ""}, ` +
      `${bytes(model.weightBytes)}; ${grouped(trainable)} trained (${percent(trainable / total)})`,
  );
  for (const note of model.notes) say(note);
  if (lora && options.adapter === undefined) loraNotes(lora).forEach(say);
}

/** Says what the run will take. */
function sayRun(
  trainer: Trainer,
  memory: TrainMemory,
  sequences: number,
  options: TrainChoice,
  say: Say,
): void {
  say(
    `${counted(sequences, "sequence")}, ${counted(trainer.steps, "step")} of ` +
      `${options.accumulation * trainer.rows}×${trainer.length} tokens`,
  );
  const warning = observeNote(trainer.model, options, trainer.steps);
  if (warning) printError(warning);
  say(
    `${bytes(memory.peak)} of GPU memory: ${bytes(memory.held)} for the model, ` +
      `${bytes(memory.state)} for gradients and moments, ${bytes(memory.step)} for a step`,
  );
}

/** Goes on from a checkpoint, if it is there. */
async function resume(trainer: Trainer, log: StepLog, checkpoint: string, say: Say): Promise<void> {
  if (!await isThere(checkpoint)) return;
  await loadCheckpoint(trainer, checkpoint);
  await log.resume(trainer.step);
  say(`Going on from step ${trainer.step} of ${checkpoint}`);
}

/** Writes what was trained; what there is to say of a rounded model, or null. */
async function save({ model, lora, base }: Prepared, options: TrainChoice): Promise<string | null> {
  const { out, dtype } = options;
  if (options.qat) return await saveRounded(model, out, dtype, options);
  if (lora) await saveAdapter(lora, out, { baseModel: base });
  else await saveModel(model, out, { dtype });
  return null;
}

async function trainAndSave(options: TrainChoice): Promise<void> {
  const { full, out, json, beta1, beta2, keepBlocks: keep } = options;
  const kind = full || options.qat ? "model" : "adapter";
  await checkOut(out, kind, kind === "model" && !options.init ? options.model : undefined);
  await checkOutFile(options.checkpoint, "--checkpoint");
  await checkOutFile(options.log, "--log");
  await checkOutFolder(options.profile, "--profile");
  const say = sayUnless(json);
  using device = await openDevice();
  say(`${device.adapter.name} (${device.adapter.type})`);
  const prepared = await prepareModel(device, options);
  const { model } = prepared;
  if (options.qat) await prepareFor(model, options);
  const parameters = model.count();
  sayModel(prepared, parameters, options, say);
  const dataset = await readData(model, options, say);
  const teacher = options.teacher === undefined
    ? undefined
    : await loadModel(device, await modelFolder(options.teacher));
  const begun = performance.now();
  using trainer = new Trainer(model, dataset, {
    ...options,
    teacher,
    betas: [beta1, beta2],
    checkpointing: options.checkpointing && { keep },
  });
  const memory = trainer.memory();
  sayRun(trainer, memory, dataset.length, options, say);
  const log = new StepLog(options.log);
  if (options.checkpoint !== undefined) await resume(trainer, log, options.checkpoint, say);
  const start = performance.now();
  const { told, traced } = await runSteps(trainer, log, options, { start: begun, say })
    // A run that went wrong is the one whose figures are wanted.
    .finally(() => log.write());
  const seconds = (performance.now() - start) / 1000;
  const rounded = await save(prepared, options);
  const losses = told.map(({ loss }) => loss);
  const last = told.at(-1);
  const result = {
    adapter: device.adapter.name,
    out,
    steps: trainer.steps,
    seconds,
    loss: last?.loss ?? null,
    tokens: trainer.tokens,
    tokensPerSecond: last?.tokensPerSecond ?? 0,
    parameters,
    peakBytes: device.memory.peak,
    memory,
  };
  if (json) {
    const profile = traced && jsonProfile(traced.profiled, traced.trace);
    return printJson(profile ? { ...result, profile } : result);
  }
  if (losses.length > 1) printLine(curve(losses, { height: 8 }));
  printLine(
    `${duration(seconds)}, at most ${bytes(device.memory.peak)} of GPU memory. ` +
      `The ${kind} is in ${out}`,
  );
  if (rounded) printLine(rounded);
}

const train: Command = defineCommand({
  name: "train",
  summary: "Fine-tune an adapter on a model, quantized or not, or train all its weights",
  examples: [
    [
      "nibble train --model ./SmolLM2-135M --quantize nf4 --data set.jsonl --out ./my-adapter",
      "QLoRA: an adapter on a 4-bit model",
    ],
    [
      "nibble train --model ./SmolLM2-135M --data set.jsonl --target-modules q_proj,v_proj --r 16 --out ./my-adapter",
      "LoRA on two kinds of layers",
    ],
    [
      "nibble train --model HuggingFaceTB/SmolLM2-135M --quantize nf4 --data set.jsonl --out ./my-adapter",
      "on a model of the Hugging Face hub, which is downloaded once",
    ],
    [
      "nibble train --model ./SmolLM2-135M-Q4_K_M.gguf --data set.jsonl --out ./my-adapter",
      "on a GGUF file, whose weights stay in its own blocks",
    ],
    [
      "nibble train --full --model ./SmolLM2-135M --teacher ./SmolLM2-135M --text text.txt --qat int4 --out ./rounded",
      "quantization-aware training: the weights saved lose nothing with --quantize int4",
    ],
    [
      "nibble train --full --init --model ./config --text text.txt --length 256 --epochs 20 --out ./model",
      "pretrain a new model",
    ],
  ],
  options: OPTIONS,
  check: checkChoice,
  run: trainAndSave,
});
export default train;
