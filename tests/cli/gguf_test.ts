/** A GGUF file where commands take a model. */
import { saveGguf } from "../../train/models/gguf_export.ts";
import { assert, assertEquals, assertMatch } from "../assert.ts";
import { nibble } from "./spawn.ts";
import { tinyFiles, tinyModel } from "./tiny_files.ts";

const folder = await tinyFiles();
const path = `${folder}/tiny.gguf`;
const model = tinyModel();
await saveGguf(model, path, { type: "q8_0" });
model.dispose();

/** Runs a command that must work, and gives what it printed. */
async function run(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await nibble(...args);
  assertEquals(code, 0, stderr);
  return stdout;
}

Deno.test("an adapter is trained over a GGUF file whose weights are kept, and merged into it", async () => {
  const data = ["--data", `${folder}/set.jsonl`];
  const out = `${folder}/over-gguf`;
  const told = await run(
    ...["train", "--model", path, ...data, "--out", out, "--r", "2", "--length", "16"],
    ...["--batch-size", "2", "--epochs", "40", "--learning-rate", "0.02", "--alpha", "8"],
  );
  assertMatch(told, /^7 weights stored as Q8_0: kept$/m);
  assertMatch(told, /^2 weights stored as Q8_0: decoded to f32$/m);
  const evaluated = async (...args: string[]) =>
    JSON.parse(await run("eval", ...data, "--json", ...args));
  const before = await evaluated("--model", path);
  const after = await evaluated("--model", path, "--adapter", out);
  assert(after.nll < before.nll / 4, `nll from ${before.nll} to ${after.nll}`);
  const decoded = await evaluated("--model", path, "--adapter", out, "--dequantize");
  assert(Math.abs(decoded.nll / after.nll - 1) < 1e-4, `${decoded.nll}, ${after.nll}`);
  const merged = `${folder}/merged`;
  await run("merge", "--model", path, "--adapter", out, "--out", merged);
  const whole = await evaluated("--model", merged);
  assert(Math.abs(whole.nll / after.nll - 1) < 1e-4, `${whole.nll}, ${after.nll}`);
});

Deno.test("inspect lists a GGUF file, and quantize makes a folder in 4 bits of it", async () => {
  assertMatch(await run("inspect", path), /^blk\.0\.attn_q\.weight +Q8_0 +\[64,64\] +4\.35 kB$/m);
  const out = `${folder}/nf4`;
  const found = JSON.parse(await run("quantize", "--model", path, "--out", out, "--json"));
  assertEquals([found.before.bitsPerWeight, found.after.bitsPerWeight], [8.5, 4.5]);
  assert(found.layers.at(-1).relativeError > 0.05 && found.layers.at(-1).relativeError < 0.2);
  assertMatch(await run("inspect", out), /^model\.layers\.0\.self_attn\.q_proj\.weight +U8/m);
});
