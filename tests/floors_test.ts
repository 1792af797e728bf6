import { floorFault } from "./floors.ts";
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

Deno.test("deno lint runs the floors rule on this project", async () => {
  const folder = new URL("../core/", import.meta.url);
  const file = new URL("floors_probe.ts", folder);
  Deno.writeTextFileSync(file, 'import { a } from "../kernels/rows.ts";\nconsole.log(a);\n');
  try {
    const lint = new Deno.Command(Deno.execPath(), { args: ["lint", file.pathname] });
    const { code, stderr } = await lint.output();
    const text = new TextDecoder().decode(stderr);
    assertEquals([code, text.includes("core/ must not import kernels/")], [1, true]);
  } finally {
    Deno.removeSync(file);
  }
});
