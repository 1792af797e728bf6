import { z } from "zod";
import { type Command, defineCommand, readArguments } from "../../cli/command.ts";
import type { OptionCheck } from "../../cli/option_check.ts";
import {
  describeOptions,
  integerList,
  jsonFile,
  jsonOutput,
  jsonSwitch,
  publishedSchema,
  textList,
  textSets,
} from "../../cli/options.ts";
import { editDistance, nearest } from "../../cli/suggest.ts";
import { assert, assertEquals, assertRejects } from "../assert.ts";

const OPTIONS = z.strictObject({
  model: z.string().min(1).meta({ description: "model folder", placeholder: "FOLDER" }),
  r: z.int().min(1).default(8).meta({ description: "LoRA rank", aka: ["rank", "lora-rank"] }),
  learningRate: z.number().positive().max(1).default(2e-4).describe("peak learning rate"),
  quantize: z.enum(["none", "nf4", "int8"]).default("none").describe("how the base is stored"),
  bits: z.literal([4, 8]).optional().describe("bits per weight"),
  doubleQuant: z.boolean().default(false).describe("quantize the scales as well"),
  packing: z.boolean().default(true).describe("pack rows"),
  targetModules: textList().default(["q_proj", "v_proj"]).describe("modules"),
  ranks: integerList(1).optional().describe("ranks to try"),
  modules: textSets().optional().describe("module sets to try"),
  name: z.string().refine((name) => !name.includes(" "), "wanted a name without spaces").optional(),
  json: jsonSwitch(),
});
type Options = z.output<typeof OPTIONS>;

/** What `run` gets for these arguments. */
async function read(...args: string[]): Promise<Options> {
  let seen: Options | undefined;
  const command = defineCommand({
    name: "train",
    summary: "trains",
    examples: [["nibble train ./model --r 4", "a small rank"]],
    positionals: ["model"],
    options: OPTIONS,
    run(options) {
      seen = options;
    },
  });
  const reading = readArguments(command, args);
  if (reading.kind === "print") throw new Error(`printed ${reading.text}`);
  await reading.run();
  return seen!;
}

async function withConfig<T>(text: string, body: (path: string) => Promise<T> | T): Promise<T> {
  const folder = Deno.makeTempDirSync();
  try {
    const path = `${folder}/run.json`;
    Deno.writeTextFileSync(path, text);
    return await body(path);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

Deno.test("readArguments() gives defaults where nothing is said", async () => {
  assertEquals(await read("m"), {
    model: "m",
    r: 8,
    learningRate: 2e-4,
    quantize: "none",
    doubleQuant: false,
    packing: true,
    targetModules: ["q_proj", "v_proj"],
    json: false,
  });
});

Deno.test("readArguments() reads every kind of flag", async () => {
  const flags = ["--r", "4", "--learning-rate=1e-3", "--quantize", "nf4", "--bits", "8"];
  const lists = ["--target-modules", "q_proj, o_proj", "--ranks", "1,2,4"];
  const sets = ["--modules", "q_proj;q_proj,v_proj;all"];
  const options = await read(
    "m",
    ...flags,
    "--double-quant",
    "--no-packing",
    ...lists,
    ...sets,
    "--json",
  );
  assertEquals(options, {
    model: "m",
    r: 4,
    learningRate: 1e-3,
    quantize: "nf4",
    bits: 8,
    doubleQuant: true,
    packing: false,
    targetModules: ["q_proj", "o_proj"],
    ranks: [1, 2, 4],
    modules: [["q_proj"], ["q_proj", "v_proj"], ["all"]],
    json: true,
  });
});

Deno.test("readArguments() puts flags over the config file over defaults", async () => {
  const config = {
    $schema: "train.schema.json",
    model: "from-file",
    r: 16,
    doubleQuant: true,
    ranks: [3],
  };
  await withConfig(`\uFEFF${JSON.stringify(config)}`, async (path) => {
    const options = await read("--config", path, "--r", "2", "--no-double-quant");
    assertEquals(
      [options.model, options.r, options.doubleQuant, options.ranks, options.learningRate],
      ["from-file", 2, false, [3], 2e-4],
    );
  });
});

Deno.test("readArguments() names the flag, what was found and what was wanted", async () => {
  const cases: [args: string[], text: string][] = [
    [["--r", "abc"], 'Cannot read option --r: found "abc", wanted a whole number ≥ 1'],
    [["--r", "0"], 'Cannot read option --r: found "0", wanted a whole number ≥ 1'],
    [["--r", "1.5"], 'Cannot read option --r: found "1.5", wanted a whole number ≥ 1'],
    [["--r", ""], 'Cannot read option --r: found "", wanted a whole number ≥ 1'],
    [["--learning-rate", "-1"], 'found "-1", wanted a number > 0 and ≤ 1'],
    [["--learning-rate", "Infinity"], 'found "Infinity", wanted a number > 0 and ≤ 1'],
    [["--quantize", "nf5"], '--quantize: found "nf5", wanted one of none, nf4, int8'],
    [["--bits", "5"], 'Cannot read option --bits: found "5", wanted one of 4, 8'],
    [["--ranks", "1,x"], '--ranks: found "1,x", wanted whole numbers ≥ 1 separated by commas'],
    [["--target-modules", "a,,b"], 'found "a,,b", wanted names separated by commas'],
    [["--modules", "a;"], 'found "a;", wanted names separated by commas, and sets of them'],
    [["--name", "a b"], "Cannot read option --name: wanted a name without spaces"],
    [["--r", "--json"], "Cannot read option --r: found the flag --json in place of its value"],
    [["--r"], "Cannot read option --r: its value is missing, wanted a whole number ≥ 1"],
    [["--config"], "Cannot read option --config: its value is missing, wanted a file"],
    [["--json=yes"], "Cannot read option --json: found --json=yes, but it takes no value"],
    [["other"], "Cannot run nibble train: found more arguments than the 1 it takes"],
  ];
  for (const [args, text] of cases) await assertRejects(() => read("m", ...args), Error, text);
  await assertRejects(() => read(""), RangeError, 'Cannot read argument FOLDER: found ""');
  await assertRejects(
    () => read(),
    TypeError,
    "Cannot run nibble train: FOLDER is missing (model folder)",
  );
});

Deno.test("readArguments() reports every wrong option, a line each", async () => {
  const error = await assertRejects(() => read("m", "--r", "x", "--bits", "5"), TypeError, "--r");
  assertEquals(error.message.split("\n").length, 2);
});

/** What a command's own check says to these arguments. */
function checked(
  body: (options: Options, check: OptionCheck<keyof Options>) => void,
  ...args: string[]
): string {
  const command = defineCommand({
    name: "train",
    summary: "",
    examples: [],
    positionals: ["model"],
    options: OPTIONS,
    check: body,
    run() {},
  });
  try {
    readArguments(command, args);
    return "";
  } catch (error) {
    assert(error instanceof RangeError || error instanceof TypeError);
    return error.message;
  }
}

Deno.test("a command's check knows what was said, by a flag or in the config file", async () => {
  const keys = Object.keys(OPTIONS.shape) as (keyof Options)[];
  const said = (...args: string[]) => {
    let found: string[] = [];
    const note = (_: Options, check: OptionCheck<keyof Options>) => {
      found = keys.filter((key) => check.said(key));
    };
    assertEquals(checked(note, "m", ...args), "");
    return found;
  };
  assertEquals(said(), ["model"]);
  // The default, if somebody says it, is said; a switch that stays where it is says nothing.
  assertEquals(said("--r", "8", "--no-double-quant"), ["model", "r"]);
  assertEquals(said("--double-quant", "--no-packing"), ["model", "doubleQuant", "packing"]);
  const config = { ranks: [2], quantize: "none", packing: true, json: true };
  await withConfig(JSON.stringify(config), (path) => {
    assertEquals(said("--config", path, "--no-json"), ["model", "quantize", "ranks"]);
  });
});

Deno.test("a command's check refuses options where they stand, a line each", async () => {
  const body = ({ r }: Options, check: OptionCheck<keyof Options>) => {
    assertEquals(check.firstSaid(["bits", "ranks", "r"]), "--ranks");
    check.refuseSaid(["bits", "ranks", "r"], "leave it out");
    check.refuse("model", "wanted another");
    if (!check.said("bits")) check.lacks("bits");
    check.fault(`nothing goes with ${r}`);
    check.fault(`nothing goes with ${r}`);
  };
  await withConfig('{"ranks": [1]}', (path) => {
    assertEquals(checked(body, "m", "--r", "4", "--config", path).split("\n"), [
      `Cannot read "ranks" in ${path}: leave it out`,
      "Cannot read option --r: leave it out",
      "Cannot read argument FOLDER: wanted another",
      "Cannot run nibble train: --bits is missing (bits per weight)",
      "Cannot run nibble train: nothing goes with 4",
    ]);
  });
  // Values that are wrong by themselves come first, and alone.
  assertEquals(
    checked(() => assert(false), "m", "--r", "0"),
    'Cannot read option --r: found "0", wanted a whole number ≥ 1',
  );
  const unknown = (_: Options, check: OptionCheck) => void check.said("zebra");
  assertEquals(
    checked(unknown, "m"),
    'Cannot check option "zebra": nibble train has none',
  );
});

Deno.test("readArguments() suggests the near flag", async () => {
  const cases: [flag: string, text: string][] = [
    ["--quantise", "Unknown flag --quantise: did you mean --quantize?"],
    ["--rank", "Unknown flag --rank: did you mean --r?"],
    ["--double", "Unknown flag --double: did you mean --double-quant?"],
    ["--doubleQuant", "Unknown flag --doubleQuant: did you mean --double-quant?"],
    ["--no-paking", "Unknown flag --no-paking: did you mean --no-packing?"],
    ["--learnin-rate=3", "Unknown flag --learnin-rate: did you mean --learning-rate?"],
    ["--confg", "Unknown flag --confg: did you mean --config?"],
    ["--zebra", "Unknown flag --zebra. See nibble train --help"],
    ["-x", "Unknown flag -x. See nibble train --help"],
  ];
  for (const [flag, text] of cases) await assertRejects(() => read("m", flag), TypeError, text);
});

Deno.test("readArguments() says what is wrong in a config file", async () => {
  const cases: [config: string, text: string][] = [
    ['{"dobleQuant": true}', 'unknown key "dobleQuant": did you mean doubleQuant?'],
    ['{"double-quant": true}', 'unknown key "double-quant": did you mean doubleQuant?'],
    ['{"rank": 4}', 'unknown key "rank": did you mean r?'],
    ['{"lora_rank": 4}', 'unknown key "lora_rank": did you mean r?'],
    ['{"zebra": 1}', 'unknown key "zebra". It knows model, r, learningRate'],
    ['{"r": "8"}', 'run.json: found "8", wanted a whole number ≥ 1'],
    ['{"doubleQuant": "yes"}', 'found "yes", wanted true or false'],
    ['{"r": null}', "found null, wanted a whole number ≥ 1"],
    ['{"modules": ["all"]}', 'found ["all"], wanted names separated by commas, and sets'],
    ["[1]", "found [1], wanted an object of options"],
    ["{r: 1}", "run.json: it is not valid JSON ("],
    ["", "run.json: it is not valid JSON ("],
  ];
  for (const [config, text] of cases) {
    await withConfig(
      config,
      (path) => assertRejects(() => read("m", "--config", path), Error, text),
    );
  }
  const missing = "/nowhere/run.json";
  await assertRejects(() => read("m", "--config", missing), TypeError, "there is no such file");
  await assertRejects(() => read("m", "--config", "/tmp"), TypeError, "it is a folder");
});

Deno.test("readArguments() prints help with choices, defaults, groups and examples", () => {
  const command: Command = defineCommand({
    name: "train",
    summary: "Trains a thing",
    examples: [["nibble train m --r 4", "with a small rank"]],
    positionals: ["model"],
    options: OPTIONS.extend({
      alpha: z.number().default(16).meta({ description: "LoRA alpha", group: "LoRA" }),
    }),
    run() {},
  });
  const reading = readArguments(command, ["--help"]);
  assert(reading.kind === "print");
  const wanted = [
    "Usage: nibble train FOLDER [options]",
    "Trains a thing",
    "--r <N>",
    "LoRA rank (default: 8)",
    "(choices: none, nf4, int8; default: none)",
    "--no-packing",
    "LoRA:",
    "--config <FILE>",
    "Examples: nibble train m --r 4 with a small rank",
  ];
  const help = reading.text.replace(/\s+/g, " "); // it wraps with the terminal
  for (const text of wanted) assert(help.includes(text), `${text} in\n${reading.text}`);
  assert(!help.includes("--no-double-quant"));
  assert(!help.includes("--packing "));
});

Deno.test("readArguments() prints the schema even where options are missing", () => {
  const command = defineCommand({
    name: "train",
    summary: "trains",
    examples: [],
    options: OPTIONS,
    run() {},
  });
  const reading = readArguments(command, ["--schema"]);
  assert(reading.kind === "print");
  const schema = JSON.parse(reading.text);
  assertEquals(schema.title, "nibble train");
  assertEquals(schema.additionalProperties, false);
  assertEquals(schema.properties.model, {
    type: "string",
    minLength: 1,
    description: "model folder",
  });
  assert(!("required" in schema));
});

Deno.test("describeOptions() refuses what no flag can carry", () => {
  const nested = z.strictObject({ nested: z.strictObject({ a: z.string() }) });
  const taken = z.strictObject({ config: z.string() });
  for (const [schema, text] of [[nested, 'option "nested"'], [taken, "has --config"]] as const) {
    let message = "";
    try {
      describeOptions(schema);
    } catch (error) {
      message = (error as Error).message;
    }
    assert(message.includes(text), message);
  }
});

Deno.test("jsonFile() takes a path", () => {
  const options = z.strictObject({ json: jsonFile() });
  assertEquals(describeOptions(options)[0].placeholder, "FILE");
  assertEquals(Object.keys(publishedSchema("x", options).properties as object), [
    "$schema",
    "json",
  ]);
});

Deno.test("jsonOutput() takes a path, or stands alone for stdout", async () => {
  const seen: (string | undefined)[] = [];
  const command = defineCommand({
    name: "x",
    summary: "",
    examples: [],
    options: z.strictObject({ json: jsonOutput() }),
    run: ({ json }) => void seen.push(json),
  });
  for (const args of [[], ["--json"], ["--json", "-"], ["--json", "out.json"]]) {
    const reading = readArguments(command, args);
    if (reading.kind === "run") await reading.run();
  }
  assertEquals(seen, [undefined, "-", "-", "out.json"]);
});

Deno.test("editDistance() counts edits and swaps", () => {
  assertEquals(editDistance("rnak", "rank"), 1);
  assertEquals(editDistance("", "abc"), 3);
  assertEquals(editDistance("kitten", "sitting"), 3);
});

Deno.test("nearest() finds a likely name or none", () => {
  assertEquals(nearest("--rnak", ["--r", "--rank", "--bank"]), "--rank");
  assertEquals(nearest("x", ["r"]), null);
  assertEquals(nearest("evall", ["train", "eval"]), "eval");
  assertEquals(nearest("gen", ["train", "generate"]), "generate");
});
