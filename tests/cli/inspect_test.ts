import { type TensorData, writeSafetensors } from "../../train/files/safetensors.ts";
import { assert, assertEquals } from "../assert.ts";
import { nibble } from "./spawn.ts";

const floats = (...shape: number[]) => {
  const data = new Float32Array(shape.reduce((size, length) => size * length, 1));
  return { dtype: "F32", shape, data };
};

async function withModel(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    const state = new TextEncoder().encode(JSON.stringify({ quant_type: "nf4", shape: [8, 16] }));
    await writeSafetensors(
      `${folder}/model.safetensors`,
      new Map<string, TensorData>([
        ["embed.weight", floats(10, 4)],
        ["norm.weight", { dtype: "BF16", shape: [4], data: new Uint16Array(4) }],
        ["up.weight", { dtype: "U8", shape: [64, 1], data: new Uint8Array(64) }],
        ["up.weight.absmax", floats(2)],
        ["up.weight.quant_map", floats(16)],
        ["up.weight.quant_state.bitsandbytes__nf4", {
          dtype: "U8",
          shape: [state.length],
          data: state,
        }],
        ["bad\x1b[2Jname", floats(0)],
      ]),
    );
    await Deno.mkdir(`${folder}/adapter`);
    await writeSafetensors(
      `${folder}/adapter/adapter_model.safetensors`,
      new Map([
        ["up.lora_A.weight", floats(1, 16)],
        ["up.lora_B.weight", floats(8, 1)],
        ["norm.weight", floats(4)],
      ]),
    );
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("nibble inspect lists tensors, totals, and the trainable share", () =>
  withModel(async (folder) => {
    const { code, stdout, stderr } = await nibble(
      "inspect",
      folder,
      "--adapter",
      `${folder}/adapter`,
    );
    assertEquals([code, stderr], [0, ""]);
    for (
      const line of [
        /^embed\.weight +F32 +\[10,4\] +160 B$/m,
        /^norm\.weight +BF16 +\[4\] +8 B$/m,
        /^BF16 +1 +4 +8 B/m,
        /: 7 tensors, 172 parameters, /,
        // As `nibble train` and PEFT count: what an adapter adds is among all; a whole module is not twice there.
        /^Trainable: 28 of 196 parameters, 14\.3 %$/m,
      ]
    ) assert(line.test(stdout), `${line} in\n${stdout}`);
    assert(!stdout.includes("\x1b"), "control characters of a name reach the terminal");
  }));

Deno.test("nibble inspect --json prints one object", () =>
  withModel(async (folder) => {
    const { code, stdout } = await nibble(
      "inspect",
      folder,
      "--json",
      "--adapter",
      `${folder}/adapter`,
    );
    assertEquals(code, 0);
    const found = JSON.parse(stdout);
    assertEquals(found.parameters, 172);
    assertEquals(found.totals.F32, { tensors: 4, elements: 58, bytes: 232 });
    assertEquals([found.adapter.parameters, found.adapter.share], [28, 28 / 196]);
    assertEquals(found.tensors.find(({ name }: { name: string }) => name === "norm.weight"), {
      name: "norm.weight",
      dtype: "BF16",
      shape: [4],
      bytes: 8,
    });
  }));

Deno.test("nibble inspect says what is wrong with its file, in one line", () =>
  withModel(async (folder) => {
    await Deno.writeFile(`${folder}/short.safetensors`, new Uint8Array(3));
    await Deno.mkdir(`${folder}/empty`);
    for (const name of ["short.safetensors", "empty", "missing"]) {
      const { code, stdout, stderr } = await nibble("inspect", `${folder}/${name}`);
      assertEquals([code, stdout], [1, ""]);
      assert(/^error: Cannot .*\n$/.test(stderr), stderr);
    }
  }));

Deno.test("nibble inspect --types shows the number types", async () => {
  const { code, stdout, stderr } = await nibble("inspect", "--types");
  assertEquals([code, stderr], [0, ""]);
  for (
    const line of [
      /^BF16 +16 +s e{8} f{7} +127 /m,
      /^FP8 e4m3 +-448 +448 +2\^-6 +2\^-9 +2\^-4 +2\^-3$/m,
      /^INT4 +0\.5 +3\.50 GB +3\.99 GB +4\.56 /m,
      /^ +1\.0625 +1 +1\.125 +1 +0 0111 000 +a tie$/m,
    ]
  ) assert(line.test(stdout), `${line} in\n${stdout}`);
  const json = await nibble("inspect", "--types", "--json");
  const { types } = JSON.parse(json.stdout);
  assertEquals(types.map((own: { bits: number }) => own.bits), [32, 16, 16, 8, 8, 8, 4, 4, 4]);
});

Deno.test("nibble inspect wants a path or --types", async () => {
  for (const args of [[], ["--types", "somewhere"]]) {
    const { code, stderr } = await nibble("inspect", ...args);
    assertEquals(code, 2);
    assert(/^error: .*PATH: it (is missing|cannot stand).*--types/.test(stderr), stderr);
  }
});

Deno.test("nibble inspect --weights shows how each kind of layer is spread", async () => {
  const base = new URL("../../assets/base", import.meta.url).pathname;
  const { code, stdout, stderr } = await nibble("inspect", base, "--weights");
  assertEquals([code, stderr], [0, ""]);
  for (
    const line of [
      /^k_proj +4 +51\.2 k +0\.\d+ +8\.1 σ +70\.8 % +95\.2 % +99\.3 % +1\.27$/m,
      /^all +29 +1\.50 M /m,
      /^a bell +68\.3 % +95\.5 % +99\.7 % +0\.00$/m,
      /^ +from 0\.0 σ █{38,40} +19\.5 %$/m,
    ]
  ) assert(line.test(stdout), `${line} in\n${stdout}`);
  const { shapes } = JSON.parse((await nibble("inspect", base, "--weights", "--json")).stdout);
  assertEquals(shapes.length, 9);
  assertEquals(shapes.at(-1).type, "all");
  assert(!/Not among these/.test(stdout), stdout);
  const both = await nibble("inspect", base, "--weights", "--adapter", base);
  assertEquals(both.code, 2);
  // A file without matrices has nothing to show.
  await withModel(async (folder) => {
    const path = `${folder}/norms.safetensors`;
    await writeSafetensors(path, new Map([["norm.weight", floats(4)]]));
    const few = await nibble("inspect", path, "--weights");
    assertEquals(few.code, 1);
    assert(/has no matrix in plain numbers/.test(few.stderr), few.stderr);
    // Of a quantized model the rest is shown, and how many are not.
    for (const type of ["nf4", "int8"]) {
      const out = `${folder}/${type}`;
      const made = await nibble("quantize", "--model", base, "--out", out, "--quantize", type);
      assertEquals(made.code, 0, made.stderr);
      const rest = await nibble("inspect", out, "--weights");
      assert(/^all +1 +328 k /m.test(rest.stdout), rest.stdout);
      assert(/^Not among these: 28 matrices that are quantized/m.test(rest.stdout), rest.stdout);
    }
  });
});
