/** `nibble export`: a model, or an adapter alone, as a GGUF file for llama.cpp. */
import { z } from "zod";
import { openDevice } from "../core/device.ts";
import { saveGgufAdapter } from "../train/adapters/gguf_adapter.ts";
import { lorasOn, mergeAdapter } from "../train/adapters/lora.ts";
import { GgufFile, isGgufPath } from "../train/files/gguf.ts";
import { saveGguf } from "../train/models/gguf_export.ts";
import { type Command, defineCommand } from "./command.ts";
import { ADAPTER_OPTION, MODEL_OPTIONS, openModel } from "./model_options.ts";
import { jsonSwitch } from "./options.ts";
import { checkOutFile } from "./out_folder.ts";
import { bytes, printJson, printLine, table } from "./print.ts";

/** Throws unless a file may be written there, and not onto the model that is read. */
async function checkOut(out: string, model: string): Promise<void> {
  await checkOutFile(out, "--out");
  const read = await Deno.realPath(model).catch(() => null);
  if (read === null || await Deno.realPath(out).catch(() => null) !== read) return;
  throw new Error(
    `Cannot write to "${out}": it is the file that the model is read from; name another with --out`,
  );
}

/** Tensors and bytes of one type. */
interface TypeCount {
  readonly type: string;
  readonly tensors: number;
  readonly bytes: number;
}

/** What is in a file, by type. */
async function typesIn(path: string): Promise<TypeCount[]> {
  using file = await GgufFile.open(path);
  const groups = Map.groupBy(file.entries.values(), ({ dtype }) => dtype);
  return Array.from(groups, ([type, own]) => ({
    type,
    tensors: own.length,
    bytes: own.reduce((sum, { begin, end }) => sum + end - begin, 0),
  }));
}

const command: Command = defineCommand({
  name: "export",
  summary: "Write a model, or an adapter alone, as a GGUF file for llama.cpp",
  examples: [
    [
      "nibble export --model ./SmolLM2-135M --out ./SmolLM2-135M-Q8_0.gguf",
      "8.5 bits a weight, with the tokenizer and the chat template in the same file",
    ],
    [
      "nibble export --model ./SmolLM2-135M --adapter ./my-adapter --merge --out ./mine.gguf --type q4_0",
      "the adapter merged into the model, in 4.5 bits",
    ],
    [
      "nibble export --model ./SmolLM2-135M --adapter ./my-adapter --adapter-only --out ./mine.gguf",
      "the adapter alone, for llama.cpp's --lora beside a GGUF file of the same model",
    ],
  ],
  options: z.strictObject({
    model: MODEL_OPTIONS.model,
    adapter: ADAPTER_OPTION.adapter,
    merge: z.boolean().default(false)
      .meta({ description: "merge the adapter into the model (with --adapter)" }),
    adapterOnly: z.boolean().default(false)
      .meta({ description: "write the adapter alone, in 32 bits (with --adapter)" }),
    out: z.string().min(1).meta({
      description: "where to: a file that ends in .gguf; one that is there is replaced",
      placeholder: "FILE",
    }),
    type: z.enum(["q8_0", "q4_0", "f16", "f32"]).default("q8_0")
      .meta({ description: "of the model's matrices" }),
    json: jsonSwitch(),
  }),
  check({ adapter, merge, adapterOnly, out }, check) {
    if (adapter === undefined && (merge || adapterOnly)) {
      check.fault("--merge and --adapter-only say what is done with --adapter: name one");
    }
    if (adapter !== undefined && merge === adapterOnly) {
      check.fault("with --adapter say one of --merge (into the model) and --adapter-only");
    }
    if (adapterOnly && check.said("type")) {
      check.fault("--type is of a model's matrices; an adapter alone is written in f32");
    }
    if (!isGgufPath(out)) {
      check.fault("--out must end in .gguf, by which llama.cpp and nibble know such files");
    }
  },
  async run({ model: name, adapter, merge, adapterOnly, out, type, json }) {
    await checkOut(out, name);
    using device = await openDevice();
    const model = await openModel(device, { model: name, adapter, doubleQuant: false });
    if (merge) mergeAdapter(model);
    const written = adapterOnly ? "f32" : type;
    if (adapterOnly) await saveGgufAdapter(lorasOn(model)[0], out);
    else await saveGguf(model, out, { type: written });
    const fileBytes = (await Deno.stat(out)).size;
    const types = await typesIn(out);
    const what = adapterOnly ? "adapter" : "model";
    if (json) {
      return printJson({
        model: name,
        adapter: adapter ?? null,
        out,
        what,
        type: written,
        fileBytes,
        types,
      });
    }
    printLine(table(
      ["type", "tensors", "size"],
      types.map((own) => [own.type, own.tensors, bytes(own.bytes)]),
      { right: [1, 2] },
    ));
    printLine();
    printLine(`Written to ${out}: the ${what}, ${bytes(fileBytes)}, in ${written}`);
  },
});
export default command;
