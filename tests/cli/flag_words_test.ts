import { inFlags, nameFlags } from "../../cli/flag_words.ts";
import { describeOptions } from "../../cli/options.ts";
import train from "../../cli/train.ts";
import { assertEquals, assertMatch } from "../assert.ts";
import { nibble } from "./spawn.ts";
import { tinyFiles } from "./tiny_files.ts";

const OPTIONS = describeOptions(train.options);

Deno.test("inFlags() names options as they are typed, and nothing else", () => {
  const cases: [library: string, said: string][] = [
    ["Cannot load with doubleQuant alone", "Cannot load with --double-quant alone"],
    ['say it, as quantize: "nf4"', "say it, as --quantize nf4"],
    ["with blockSize: 33, batchSize.", "with --block-size 33, --batch-size."],
    [
      "or with dequantize: true; or doubleQuant: false",
      "or with --dequantize; or --no-double-quant",
    ],
    [
      "Leave weights out, load it without quantize",
      "Leave --weights out, load it without --quantize",
    ],
    // English, names of others, and what a user wrote.
    [
      "Cannot quantize the weights: the length is 3",
      "Cannot quantize the weights: the length is 3",
    ],
    ['rule 1 of the adapter: "x", no text: 3', 'rule 1 of the adapter: "x", no text: 3'],
    ['the fields "learningRate" and "blockSize"', 'the fields "learningRate" and "blockSize"'],
    ["Cannot read ./blockSize/seed: none", "Cannot read ./blockSize/seed: none"],
    ["myBlockSize, blockSizes, addLora", "myBlockSize, blockSizes, addLora"],
  ];
  for (const [library, said] of cases) assertEquals(inFlags(library, OPTIONS), said);
});

Deno.test("nameFlags() reaches causes, and leaves what has a fixed message", () => {
  const fixed = new DOMException("blockSize");
  const error = new Error("no batchSize", { cause: new RangeError("no topK", { cause: fixed }) });
  nameFlags(error, OPTIONS);
  assertEquals(error.message, "no --batch-size");
  assertEquals((error.cause as Error).message, "no topK"); // train has no such option
  assertEquals(fixed.message, "blockSize");
  nameFlags("blockSize", OPTIONS);
});

Deno.test("errors of the library reach the terminal in flags", async () => {
  const folder = await tinyFiles();
  const model = ["--model", `${folder}/model`];
  const text = ["--text", `${folder}/text.txt`];
  const cases: [RegExp, ...string[]][] = [
    [
      /--double-quant alone: say the scheme too, as --quantize nf4/,
      "eval",
      ...text,
      "--double-quant",
    ],
    [/--block-size alone: say the scheme too/, "generate", "2 is", "--block-size", "64"],
    [/with --double-quant: int8 has no/, "eval", ...text, "--quantize=int8", "--double-quant"],
    [/--quantize nf4 and --dequantize, which/, "eval", ...text, "--quantize=nf4", "--dequantize"],
    [
      /in f16: .* Leave --weights out, or/,
      ...["train", ...text, "--full", "--weights", "f16", "--out", `${folder}/out`],
    ],
  ];
  for (const [message, command, ...args] of cases) {
    const { code, stderr } = await nibble(command, ...args, ...model);
    assertEquals(code, 1);
    assertMatch(stderr, message);
  }
});
