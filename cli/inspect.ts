/** `nibble inspect`: what a safetensors or GGUF file or a model folder holds. */
import { z } from "zod";
import { GgufFile, isGgufPath } from "../train/files/gguf.ts";
import {
  openCheckpoint,
  SafetensorsFile,
  type TensorEntry,
  type TensorSource,
} from "../train/files/safetensors.ts";
import { showShape, sizeOf } from "../core/shape.ts";
import { type Command, defineCommand } from "./command.ts";
import { modelFolder } from "./model_options.ts";
import { printNumberTypes } from "./number_types.ts";
import { jsonSwitch } from "./options.ts";
import { bytes, count, grouped, percent, printJson, printLine, table } from "./print.ts";
import { printWeightShapes, quantizedIn, weightShapesOf } from "./weight_shapes.ts";

/** What all tensors of one dtype take together. */
interface Total {
  tensors: number;
  elements: number;
  bytes: number;
}

interface InspectedTensor {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: number;
}

/** What inspect says about a source of tensors. */
interface Inventory {
  readonly path: string;
  readonly tensors: readonly InspectedTensor[];
  readonly totals: Readonly<Record<string, Total>>;
  /** The model's numbers, however they are packed; scales and code tables are none. */
  readonly parameters: number;
  readonly bytes: number;
}

const PACKED = ".quant_state.bitsandbytes__";

/** What is stored beside a quantized weight: by bitsandbytes (its `QuantState.as_dict`, and `SCB` of LLM.int8), and for integers. */
const SIDE_DATA =
  /\.(absmax|quant_map|nested_absmax|nested_quant_map|SCB|weight_format|weight_(scale|zero_point|packed|kept|columns)|input_(scale|zero_point|before|after|block))$/;

/** Of packed integers, the tensor that says how many they are. */
const PACKED_SHAPE = ".weight_shape";

/** Opens a safetensors or GGUF file, a model folder, or a PEFT adapter folder. */
async function openTensors(path: string): Promise<TensorSource> {
  let isFolder: boolean;
  try {
    isFolder = (await Deno.stat(path)).isDirectory;
  } catch (error) {
    const found = error instanceof Deno.errors.NotFound
      ? "there is no such file or folder"
      : (error as Error).message;
    throw new Error(
      `Cannot inspect ${path}: ${found}; wanted a safetensors or GGUF file or a model folder`,
    );
  }
  if (!isFolder && isGgufPath(path)) return await GgufFile.open(path);
  if (!isFolder) return await SafetensorsFile.open(path);
  const names = new Set(Array.from(Deno.readDirSync(path), (entry) => entry.name));
  const isModel = names.has("model.safetensors") || names.has("model.safetensors.index.json");
  const adapter = "adapter_model.safetensors";
  if (!isModel && names.has(adapter)) return await SafetensorsFile.open(`${path}/${adapter}`);
  return await openCheckpoint(path);
}

/** How many numbers of the model a tensor holds. */
async function parametersOf(
  name: string,
  { dtype, shape }: TensorEntry,
  source: TensorSource,
  packed: ReadonlySet<string>,
): Promise<number> {
  if (SIDE_DATA.test(name) || packed.has(name)) return 0;
  if (name.endsWith(PACKED_SHAPE)) {
    const bytes = await source.read(name);
    if (dtype !== "I64" || bytes.length !== 16) return 0;
    return Array.from(new BigInt64Array(bytes.buffer, bytes.byteOffset, 2), Number)
      .reduce((size, length) => size * length, 1);
  }
  if (!name.includes(PACKED)) return sizeOf(shape);
  try {
    const state = JSON.parse(new TextDecoder().decode(await source.read(name)));
    return z.object({ shape: z.array(z.int().min(0)) }).parse(state).shape
      .reduce((size, length) => size * length, 1);
  } catch (error) {
    throw new SyntaxError(
      `Cannot read the quantization state "${name}": wanted JSON with the weight's shape`,
      { cause: error },
    );
  }
}

async function takeInventory(path: string): Promise<Inventory> {
  using source = await openTensors(path);
  // A weight whose state is there too: its bytes hold two numbers each, and the state knows how many they are.
  const packed = new Set<string>();
  for (const name of source.entries.keys()) {
    if (name.includes(PACKED)) packed.add(name.slice(0, name.indexOf(PACKED)));
  }
  const totals: Record<string, Total> = {};
  const tensors: InspectedTensor[] = [];
  let [parameters, all] = [0, 0];
  for (const [name, entry] of source.entries) {
    const { dtype, shape } = entry;
    const size = entry.end - entry.begin;
    const total = totals[dtype] ??= { tensors: 0, elements: 0, bytes: 0 };
    total.tensors++;
    total.elements += sizeOf(shape);
    total.bytes += size;
    parameters += await parametersOf(name, entry, source, packed);
    all += size;
    tensors.push({ name, dtype, shape, bytes: size });
  }
  return { path, tensors, totals, parameters, bytes: all };
}

function printInventory({ path, tensors, totals, parameters, bytes: all }: Inventory): void {
  // A file may carry any name; control characters would move the terminal's cursor.
  const clean = (name: string) => name.replace(/\p{Cc}/gu, "\u{fffd}");
  printLine(table(
    ["tensor", "dtype", "shape", "size"],
    tensors.map((tensor) => [
      clean(tensor.name),
      tensor.dtype,
      showShape(tensor.shape),
      bytes(tensor.bytes),
    ]),
    { right: [3] },
  ));
  printLine();
  const rows = Object.entries(totals).map(([dtype, total]) => [
    dtype,
    total.tensors,
    count(total.elements),
    bytes(total.bytes),
    percent(all === 0 ? 0 : total.bytes / all),
  ]);
  const head = ["dtype", "tensors", "elements", "size", "share of bytes"];
  printLine(table(head, rows, { right: [2, 3, 4] }));
  printLine();
  printLine(
    `${path}: ${tensors.length} tensors, ${grouped(parameters)} parameters, ${bytes(all)}`,
  );
}

/** The numbers that an adapter adds to its model's. Modules that were trained whole stand in the place of the model's own. */
function addedBy({ tensors }: Inventory): number {
  return tensors.filter(({ name }) => name.includes(".lora_"))
    .reduce((sum, { shape }) => sum + sizeOf(shape), 0);
}

const inspect: Command = defineCommand({
  name: "inspect",
  summary: "List a model's tensors, dtypes and sizes, and an adapter's trainable share",
  examples: [
    ["nibble inspect ./SmolLM2-135M", "every tensor of a model folder"],
    ["nibble inspect ./SmolLM2-135M --adapter ./my-adapter", "and what share of it was trained"],
    ["nibble inspect model.safetensors --json", "for machines"],
    ["nibble inspect ./SmolLM2-135M --weights", "why few bits do for most weights"],
    ["nibble inspect --types", "FP32 to FP4: bits, ranges, rounding, and a 7B model's size"],
  ],
  positionals: ["path"],
  options: z.strictObject({
    path: z.string().min(1).optional().meta({
      description:
        "a model folder, an adapter folder, a safetensors or GGUF file, or org/name of the hub",
      placeholder: "PATH",
    }),
    adapter: z.string().min(1).optional().meta({
      description:
        "a PEFT adapter folder or file: shows which share of all parameters, its own included, it trains",
      placeholder: "PATH",
    }),
    weights: z.boolean().default(false).meta({
      description:
        "show how the weights of each kind of layer are spread: a bell, and its outliers",
    }),
    types: z.boolean().default(false)
      .meta({
        description: "show the number types instead: what each can hold, and what it takes",
      }),
    json: jsonSwitch(),
  }),
  check({ path, types, weights, adapter }, check) {
    if (!types && path === undefined) {
      check.refuse("path", "it is missing, wanted a model folder, a file, or --types");
    }
    if (types && path !== undefined) {
      check.refuse("path", "it cannot stand beside --types, wanted one of the two");
    }
    if (weights && (types || adapter !== undefined)) {
      check.refuse("weights", "it cannot stand beside --types or --adapter, wanted one of them");
    }
  },
  async run({ path, adapter, weights, types, json }) {
    if (types) return printNumberTypes(json);
    if (weights) {
      using source = await openTensors(await modelFolder(path!));
      const shapes = await weightShapesOf(source, path!);
      const quantized = quantizedIn(source);
      return json ? printJson({ path, shapes, quantized }) : printWeightShapes(shapes, quantized);
    }
    const model = await takeInventory(await modelFolder(path!));
    const own = adapter === undefined ? null : await takeInventory(await modelFolder(adapter));
    const all = model.parameters + (own ? addedBy(own) : 0);
    const share = own && all > 0 ? own.parameters / all : 0;
    if (json) return printJson(own ? { ...model, adapter: { ...own, share } } : model);
    printInventory(model);
    if (!own) return;
    printLine();
    printInventory(own);
    printLine();
    printLine(
      `Trainable: ${grouped(own.parameters)} of ${grouped(all)} parameters, ` +
        percent(share),
    );
  },
});
export default inspect;
