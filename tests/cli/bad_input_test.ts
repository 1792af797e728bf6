/** Every kind of bad input, in every command that takes it: one message, a non-zero exit, and no file touched. */
import { addLora } from "../../train/adapters/lora.ts";
import { saveAdapter } from "../../train/adapters/peft.ts";
import { saveModel } from "../../train/models/save.ts";
import { assertFails, jsonl, ROWS, TINY, tinyFiles, tinyModel } from "./tiny_files.ts";

const folder = await tinyFiles();
const at = (name: string) => `${folder}/${name}`;

/** A copy of the model folder, to be broken. */
async function copyModel(name: string): Promise<string> {
  await Deno.mkdir(at(name));
  for (const entry of Deno.readDirSync(at("model"))) {
    await Deno.copyFile(at(`model/${entry.name}`), at(`${name}/${entry.name}`));
  }
  return at(name);
}

async function write(name: string, text: string): Promise<void> {
  await Deno.writeTextFile(at(name), text);
}

const { hidden_size: _, ...WITHOUT_SIZE } = TINY;
await Deno.truncate(`${await copyModel("cut")}/model.safetensors`, 50_000);
await Deno.truncate(`${await copyModel("stub")}/model.safetensors`, 20);
await Deno.remove(`${await copyModel("weightless")}/model.safetensors`);
await Deno.remove(`${await copyModel("silent")}/tokenizer.json`);
await Deno.remove(`${await copyModel("nameless")}/config.json`);
await Deno.writeTextFile(
  `${await copyModel("fieldless")}/config.json`,
  JSON.stringify(WITHOUT_SIZE),
);
await Deno.writeTextFile(`${await copyModel("garbled")}/config.json`, '{"model_type": "lla');
await Deno.writeTextFile(
  `${await copyModel("misfit")}/config.json`,
  JSON.stringify({ ...TINY, intermediate_size: 128 }),
);
await Deno.writeTextFile(
  `${await copyModel("exotic")}/config.json`,
  JSON.stringify({ ...TINY, model_type: "mamba" }),
);
await Deno.writeTextFile(`${await copyModel("mute")}/tokenizer.json`, '{"model": {}}');

{
  const other = tinyModel({ hidden_size: 32 });
  await saveModel(other, at("earlier")); // an output of an earlier run
  await saveAdapter(addLora(other, { r: 2 }), at("stranger"));
  await Deno.mkdir(at("torn"));
  for (const name of ["adapter_config.json", "adapter_model.safetensors"]) {
    await Deno.copyFile(at(`adapter/${name}`), at(`torn/${name}`));
  }
  await Deno.truncate(at("torn/adapter_model.safetensors"), 3000);
}

await write("empty.jsonl", "");
await write("blank.jsonl", "\n  \n\n");
await write("lacking.jsonl", jsonl([ROWS[0], { prompt: "1 is", reply: " odd" }]));
await write("number.jsonl", jsonl([ROWS[0], ROWS[1], { prompt: "1 is", answer: 1 }]));
await write("broken.jsonl", `${jsonl([ROWS[0]])}{"prompt": "1 is", \n`);
await write("long.jsonl", jsonl([ROWS[0], { prompt: "word ".repeat(20), answer: " odd" }]));
await write("blank.txt", " \n\n");
await Deno.mkdir(at("notes"));
await write("notes/mine.txt", "mine");

/** What every command says about a model folder that it cannot use. */
const MODELS: readonly (readonly [name: string, message: RegExp])[] = [
  ["missing", /Cannot .*missing.*: there is no such (file|folder)/],
  ["set.jsonl", /Cannot .*set\.jsonl/],
  [
    "cut",
    /cut\/model\.safetensors": it ends at byte \d+ of the data, but the file has \d+; fetch it again/,
  ],
  ["stub", /Cannot read "[^"]*stub\/model\.safetensors":.*fetch it again/],
  ["weightless", /Cannot open the model in "[^"]*": it has neither model\.safetensors nor/],
];

/** What those say that read the configuration. */
const CONFIGS: readonly (readonly [name: string, message: RegExp])[] = [
  ["nameless", /Cannot read the model's configuration "[^"]*nameless\/config\.json": there is no/],
  ["fieldless", /fieldless\/config\.json": "hidden_size" is nothing, wanted a whole number/],
  ["set.jsonl", /set\.jsonl"(: it)? is a file, wanted a folder/],
  ["garbled", /garbled\/config\.json": it is not valid JSON/],
  [
    "misfit",
    /misfit.*"model\.layers\.0\.mlp\.\w+_proj\.weight".*\[64,64\].* \[128,64\]/,
  ],
  ["exotic", /"model_type" is "mamba", wanted/],
];

const TOKENIZERS: readonly (readonly [name: string, message: RegExp])[] = [
  ["silent", /Cannot .*(no tokenizer\.json|the model has no tokenizer\. Put tokenizer\.json into)/],
  ["mute", /Cannot .*tokenizer/],
];

const DATA = ["--data", at("set.jsonl")];

/** For each command: what it needs besides a model. */
const COMMANDS: Readonly<Record<string, readonly string[]>> = {
  train: [...DATA, "--out", at("adapter"), "--json"],
  eval: [...DATA, "--json"],
  generate: ["2 is", "--json"],
  quantize: ["--out", at("earlier"), "--json"],
  ablate: [...DATA, "--test", at("set.jsonl"), "--out", at("ablation"), "--json"],
};

for (const [command, args] of Object.entries(COMMANDS)) {
  Deno.test(`nibble ${command} says what is wrong with the model's files`, async () => {
    const cases = [...MODELS, ...CONFIGS, ...command === "quantize" ? [] : TOKENIZERS];
    for (const [name, message] of cases) {
      await assertFails(folder, [command, ...args, "--model", at(name)], { code: 1, message });
    }
  });

  Deno.test(`nibble ${command} names the driver to install where there is no adapter`, async () => {
    const none = "/nonexistent/driver.json";
    await assertFails(folder, [command, ...args, "--model", at("model")], {
      code: 1,
      message: Deno.build.os === "linux"
        ? /^error: Cannot find a WebGPU adapter: no Vulkan driver answered\. Install .*(install|-S) /
        : /^error: Cannot find a WebGPU adapter/,
      env: { VK_DRIVER_FILES: none, VK_ICD_FILENAMES: none },
    });
  });
}

Deno.test("nibble inspect says what is wrong with its files", async () => {
  for (const [name, message] of MODELS) {
    await assertFails(folder, ["inspect", at(name), "--json"], { code: 1, message });
  }
  const cases: [string, RegExp][] = [
    ["missing", /Cannot .*missing/],
    ["torn", /torn\/adapter_model\.safetensors.*fetch it again/],
    ["notes", /Cannot open the model in "[^"]*notes": it has neither/],
  ];
  for (const [name, message] of cases) {
    const args = ["inspect", at("model"), "--json", "--adapter", at(name)];
    await assertFails(folder, args, { code: 1, message });
  }
});

Deno.test("commands that read an adapter say what is wrong with it", async () => {
  const cases: [string, RegExp][] = [
    ["missing", /Cannot .*missing/],
    ["notes", /Cannot read the adapter's configuration "[^"]*notes\/adapter_config\.json"/],
    ["torn", /torn\/adapter_model\.safetensors.*fetch it again/],
    [
      "stranger",
      /"[^"]*stranger": found "[^"]*" with shape \[32,2\], wanted \[64,2\]; is it for an/,
    ],
  ];
  for (const [command, args] of Object.entries(COMMANDS)) {
    if (command === "quantize" || command === "ablate") continue;
    for (const [name, message] of cases) {
      const all = [command, ...args, "--model", at("model"), "--adapter", at(name)];
      await assertFails(folder, all, { code: 1, message });
    }
  }
});

Deno.test("commands that read a data set name the line that is wrong", async () => {
  const cases: [string, RegExp][] = [
    ["missing.jsonl", /Cannot read the data set "[^"]*missing\.jsonl": there is no such file/],
    ["notes", /Cannot read the data set "[^"]*notes": it is a folder, wanted a file/],
    [
      "empty.jsonl",
      /Cannot use the data set "[^"]*empty\.jsonl": it is empty; wanted a JSON object/,
    ],
    ["blank.jsonl", /it is empty; wanted a JSON object a line/],
    [
      "lacking.jsonl",
      /Cannot use line 2 of "[^"]*lacking\.jsonl": it has the fields "prompt", "reply", wanted "answer"; name/,
    ],
    ["number.jsonl", /Cannot use line 3 of "[^"]*number\.jsonl": its "answer" is 1, wanted a text/],
    ["broken.jsonl", /Cannot read line 2 of "[^"]*broken\.jsonl": it is not valid JSON/],
    [
      "long.jsonl",
      /Cannot use example [12], "word word .*…": its prompt has 100 tokens.* context holds 64; shorten/,
    ],
  ];
  for (const command of ["train", "eval", "ablate"]) {
    for (const [name, message] of cases) {
      const args = [command, ...COMMANDS[command], "--model", at("model"), "--data", at(name)];
      await assertFails(folder, args, { code: 1, message });
    }
  }
  const text = /Cannot use the text "[^"]*blank\.txt": it is empty/;
  for (const [command, ...args] of [["train", "--out", at("adapter"), "--json"], ["eval"]]) {
    const all = [command, ...args, "--model", at("model"), "--text", at("blank.txt")];
    await assertFails(folder, all, { code: 1, message: text });
  }
});

Deno.test("nibble train --text wants a tokenizer", async () => {
  const args = ["train", "--model", at("silent"), "--text", at("text.txt"), "--json"];
  const message =
    /Cannot read "[^"]*text\.txt" for "[^"]*silent": the model has no tokenizer\.json, wanted its/;
  await assertFails(folder, [...args, "--out", at("adapter")], { code: 1, message });
});

Deno.test("nibble generate says what is wrong with its prompts", async () => {
  const model = ["--model", at("model")];
  const long = /prompt( 2)? has 100 tokens, but the model's context holds 64; shorten it/;
  await assertFails(folder, ["generate", "word ".repeat(20), ...model], { code: 1, message: long });
  const prompts = (name: string) => ["generate", ...model, "--prompts", at(name)];
  await assertFails(folder, prompts("long.jsonl"), { code: 1, message: long });
  const message = /Cannot read .*missing\.txt.*there is no such file/;
  await assertFails(folder, prompts("missing.txt"), { code: 1, message });
});

Deno.test("commands that train say what is wrong with their options", async () => {
  const cases: [command: string, code: number, message: RegExp, ...args: string[]][] = [
    [
      "train",
      1,
      /found no linear layer "q_prj", wanted q_proj, k_proj, .*down_proj.*did you mean "q_proj"\?/,
      ...["--target-modules", "q_prj"],
    ],
    ["train", 1, /found no linear layer "zebra", wanted q_proj/, "--target-modules", "zebra"],
    ["ablate", 1, /found no linear layer "q_prj".*did you mean "q_proj"\?/, "--modules", "q_prj"],
    ["train", 2, /Cannot read option --r: found "0", wanted a whole number ≥ 1/, "--r", "0"],
    ["ablate", 2, /--ranks: found "0", wanted whole numbers ≥ 1/, "--ranks", "0"],
    ["train", 1, /^error: Cannot go on: there is no memory for one of the/, "--r", "1000000000"],
    ["train", 1, /of 65 tokens: the model's context has 64 positions/, "--length", "65"],
    ["train", 2, /--full trains all weights: leave --quantize and/, "--full", "--quantize", "nf4"],
    ["train", 2, /--init draws random weights, which only --full trains/, "--init"],
    ["train", 2, /wanted one of --data and --text/, "--text", at("text.txt")],
    [
      "train",
      1,
      /the loss is NaN at step \d+, at learning rate .*Lower/,
      ...["--learning-rate", "1e30", "--max-grad-norm", "0", "--steps", "9"],
    ],
    ["train", 1, /found other files there, such as "mine\.txt"/, "--out", at("notes")],
    ["train", 1, /found a file of that name, wanted a folder/, "--out", at("set.jsonl")],
    ["train", 1, /found a folder of that name, wanted a file/, "--log", at("notes")],
    ["train", 1, /found a folder of that name.*--checkpoint/, "--checkpoint", at("notes")],
    [
      "train",
      1,
      /text\.txt": its header .*; is it a safetensors file\?/,
      "--checkpoint",
      at("text.txt"),
    ],
    ["train", 1, /it is not a checkpoint of/, "--checkpoint", at("model/model.safetensors")],
    ["train", 1, /it is the folder that the model is read/, "--full", "--out", at("model")],
    ["quantize", 1, /it is the folder that the model is read from/, "--out", at("model")],
    ["quantize", 2, /--quantize: found "nf3", wanted one of nf4, fp4/, "--quantize", "nf3"],
  ];
  for (const [command, code, message, ...args] of cases) {
    const all = [command, ...COMMANDS[command], "--model", at("model"), ...args];
    await assertFails(folder, all, { code, message });
  }
});

Deno.test("nibble demo refuses before any work", async () => {
  const cases: [RegExp, ...string[]][] = [
    [
      /to "[^"]*notes": found other files there, such as "mine\.txt", wanted a new/,
      "--out",
      "notes",
    ],
    [/found other files there/, "--out", "model"],
    [/found a file of that name, wanted a folder/, "--out", "set.jsonl"],
  ];
  for (const [message, flag, name] of cases) {
    await assertFails(folder, ["demo", flag, at(name)], { code: 1, message });
  }
  const args = ["demo", "--out", at("adapter"), "--json", at("notes")];
  await assertFails(folder, args, {
    code: 1,
    message: /folder of that name, wanted a file.*--json/,
  });
  const none = "/nonexistent/driver.json";
  for (const command of [["demo", "--out", at("adapter")], ["bench"]]) {
    await assertFails(folder, command, {
      code: 1,
      message: /^error: Cannot find a WebGPU adapter/,
      env: { VK_DRIVER_FILES: none, VK_ICD_FILENAMES: none },
    });
  }
});
