import plugin, { floorFault } from "./floors.ts";
import { assertEquals } from "./assert.ts";

Deno.test("floorFault() lets imports point down only", () => {
  assertEquals(floorFault("kernels/linear/matmul.ts", "core/tensor.ts"), null);
  assertEquals(
    floorFault("core/tensor.ts", "kernels/linear/matmul.ts"),
    "core/ must not import kernels/",
  );
  assertEquals(floorFault("train/nn/linear.ts", "train/files/safetensors.ts"), null);
  assertEquals(
    floorFault("train/files/safetensors.ts", "train/models/llama.ts"),
    "train/files/ must not import train/models/",
  );
  assertEquals(
    floorFault("train/models/llama.ts", "train/loop.ts"),
    "train/models/ must not import train/",
  );
  assertEquals(floorFault("train/loop.ts", "train/eval/perplexity.ts"), null);
  assertEquals(floorFault("bench/ablate.ts", "cli/ablate.ts"), "bench/ must not import cli/");
  assertEquals(floorFault("kernels/rows.ts", "tests/device.ts"), "kernels/ must not import tests/");
  assertEquals(floorFault("core/device.ts", "mod.ts"), "core/ must not import mod.ts");
  assertEquals(floorFault("tests/core/device_test.ts", "mod.ts"), null);
});

/** What the rule says about a file of the project that holds this source. */
function messages(path: string, source: string): string[] {
  const file = new URL(`../${path}`, import.meta.url).pathname;
  return Deno.lint.runPlugin(plugin, file, source).map(({ message }) => message);
}

Deno.test("the floors rule sees every form of import", () => {
  const fault = ["core/ must not import kernels/"];
  for (
    const source of [
      'import { a } from "../kernels/rows.ts";',
      'import type { A } from "../kernels/rows.ts";',
      'import "../kernels/rows.ts";',
      'export * from "../kernels/rows.ts";',
      'export { a } from "../kernels/rows.ts";',
      'const a = await import("../kernels/rows.ts");',
    ]
  ) {
    assertEquals(messages("core/probe.ts", source), fault, source);
    assertEquals(messages("train/probe.ts", source), [], source);
  }
  const self = 'import { openDevice } from "@nibble/nibble";';
  assertEquals(messages("kernels/probe.ts", self), ["kernels/ must not import mod.ts"]);
  assertEquals(messages("core/probe.ts", 'import { z } from "zod";\nexport const a = z;'), []);
});

Deno.test("deno lint runs the floors rule with this project's settings", async () => {
  // In a copy: a wrong import in the tree itself would fail a lint that runs at the same time.
  const folder = Deno.makeTempDirSync();
  try {
    for (const path of ["deno.json", "tests/floors.ts"]) {
      Deno.mkdirSync(`${folder}/${path}`.replace(/[^/]*$/, ""), { recursive: true });
      Deno.copyFileSync(new URL(`../${path}`, import.meta.url), `${folder}/${path}`);
    }
    Deno.mkdirSync(`${folder}/core`);
    const probe = `${folder}/core/probe.ts`;
    Deno.writeTextFileSync(probe, 'export { type A } from "../kernels/rows.ts";\n');
    const lint = new Deno.Command(Deno.execPath(), { args: ["lint", "core"], cwd: folder });
    const { code, stdout, stderr } = await lint.output();
    const text = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
    assertEquals([code, text.includes("core/ must not import kernels/")], [1, true], text);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});
