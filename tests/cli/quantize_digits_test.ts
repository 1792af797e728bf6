import { assert, assertEquals, assertMatch } from "../assert.ts";
import { nibble } from "./spawn.ts";

const digits = (...args: string[]) => nibble("quantize", "digits", "--networks", "mlp", ...args);
const SHORT = ["--seeds", "1", "--epochs", "2", "--qat-epochs", "1"];

Deno.test("nibble quantize digits shows accuracies with and without folding", async () => {
  const json = await digits(...SHORT, "--json");
  assertEquals(json.code, 0);
  assertMatch(json.stderr, /^(Training networks +\d+ % .*\n)+$/);
  const { results, folding, seeds, epochs, qatEpochs } = JSON.parse(json.stdout);
  assertEquals([seeds, epochs, qatEpochs, results.length, folding.length], [1, 2, 1, 19, 2]);
  const [apart, folded] = results;
  assertEquals([apart.name, folded.name], ["f32, apart", "f32, folded"]);
  assert(apart.accuracy > 0.8 && apart.accuracy === folded.accuracy, json.stdout);

  const { code, stdout, stderr } = await digits(...SHORT);
  assertEquals([code, stderr], [0, ""]);
  const share = `${(100 * apart.accuracy).toFixed(1)} %`.replace(".", "\\.");
  // The same seed, the same figures.
  assertMatch(stdout, new RegExp(`^f32 +apart +in f32 +${share}$`, "m"));
  assertMatch(stdout, new RegExp(`^f32 +folded +in f32 +${share} +\\d+\\.\\d$`, "m"));
  assertMatch(stdout, /^int4 per channel +folded +on as quantized +[\d.]+ %$/m);
  assertMatch(stdout, /^MLP 2( +\d+\.\d+){6}$/m);
});

Deno.test("nibble quantize digits refuses networks that it has not", async () => {
  const { code, stderr } = await nibble("quantize", "digits", "--networks", "rnn");
  assertEquals(code, 2);
  assertMatch(stderr, /--networks: found "rnn"/);
});
