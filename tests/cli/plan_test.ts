import { saveGguf } from "../../train/models/gguf_export.ts";
import { loadModel } from "../../train/models/load.ts";
import { assert, assertEquals, assertMatch } from "../assert.ts";
import { device } from "../device.ts";
import { nibble } from "./spawn.ts";

const BASE = new URL("../../assets/base", import.meta.url).pathname;

Deno.test("nibble plan says what fits into a phone, as a table and as JSON", async () => {
  const flags = ["plan", "--shape", "llama-2-7b", "--memory", "8GB"];
  const { code, stdout, stderr } = await nibble(...flags);
  assertEquals([code, stderr], [0, ""]);
  assertMatch(stdout, /^int8 +8\.007 +6\.48 GB .* no +\d+$/m);
  assertMatch(stdout, /^nf4-dq +4\.127 +3\.34 GB .* yes +3\.\d+ k$/m);
  assertMatch(stdout, /^6\.74 B parameters, 6\.48 B of them in linear layers/m);
  assertMatch(stdout, /Cache: its keys .*; on the way: .*; tokens: the longest text that fits$/m);
  const { schemes, memory, parameters } = JSON.parse((await nibble(...flags, "--json")).stdout);
  assertEquals([memory, parameters], [8e9, 6_738_415_616]);
  const fits = schemes.filter((own: { fits: boolean }) => own.fits);
  assertEquals(fits.map((own: { scheme: string }) => own.scheme), ["int4", "nf4", "nf4-dq"]);
});

Deno.test("nibble plan reads folders and GGUF files", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const model = await loadModel(device, BASE);
    await saveGguf(model, `${folder}/base.gguf`, { type: "q8_0" });
    model.dispose();
    const plans = await Promise.all([BASE, `${folder}/base.gguf`].map(async (path) => {
      const { code, stdout } = await nibble("plan", "--model", path, "--tokens", "128", "--json");
      assertEquals(code, 0);
      return JSON.parse(stdout);
    }));
    assertEquals(plans[0].schemes, plans[1].schemes);
    assert(plans[0].parameters > 1.4e6 && plans[0].parameters < 1.6e6);
    assertEquals(plans[0].schemes[0].fits, null);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("nibble plan says what is wrong", async () => {
  const cases: [number, RegExp, ...string[]][] = [
    [2, /wanted either a model or --shape/],
    [2, /found "llama7b", wanted one of .*; did you mean llama-2-7b/, "--shape", "llama7b"],
    [2, /found "8", wanted a size such as 8GB/, "--shape", "llama-2-7b", "--memory", "8"],
    [2, /found "int9", wanted names/, "--shape", "llama-2-7b", "--schemes", "int9"],
    [1, /from 1 to 4096, the model's context/, "--shape", "llama-2-7b", "--tokens", "9999"],
    [1, /there is no such file/, "--model", "/nowhere/at/all"],
  ];
  for (const [wanted, message, ...args] of cases) {
    const { code, stdout, stderr } = await nibble("plan", ...args);
    assertEquals([code, stdout], [wanted, ""], stderr);
    assertMatch(stderr, message);
  }
});
