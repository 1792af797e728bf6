/**
 * Measures what loading a large model takes: `deno run -A tests/large_load.ts [layers] [width]`. It makes a Llama of bf16 in shards
 * (4.2 GB by default) in a temporary folder, loads it into NF4 with double quantization in another process, and shows that process's
 * memory. With software Vulkan the GPU's memory is the process's own, so what the device reserved is shown too.
 *
 * With `small`, it makes a model of SmolLM2-135M's shape instead and only shows times. With `gguf` before the number of layers it
 * makes a GGUF file of Q4_0 with the embedding in Q8_0, whose blocks are kept; with `gguf-nf4` they are quantized again.
 */
// deno-lint-ignore-file camelcase no-console -- the fields are config.json's; a script shows what it found
import { openDevice } from "../core/device.ts";
import { sizeOf } from "../core/shape.ts";
import { blueprintOf } from "../train/models/architectures.ts";
import { ggufNameOf } from "../train/models/gguf_names.ts";
import { loadModel } from "../train/models/load.ts";
import { ggufBytes, type TestTensor } from "./train/files/gguf_bytes.ts";

const LARGE = {
  model_type: "llama",
  vocab_size: 32_000,
  hidden_size: 4096,
  intermediate_size: 11_008,
  num_hidden_layers: 11,
  num_attention_heads: 32,
  num_key_value_heads: 8,
  tie_word_embeddings: true,
};

const SMALL = {
  model_type: "llama",
  vocab_size: 49_152,
  hidden_size: 576,
  intermediate_size: 1536,
  num_hidden_layers: 30,
  num_attention_heads: 9,
  num_key_value_heads: 3,
  tie_word_embeddings: true,
};

/** Tensors of a shard take at least so many bytes, but for the last. */
const SHARD = 1_000_000_000;

/** Writes a model of this configuration, and returns its bytes and those of its largest tensor. */
function writeModel(folder: string, json: typeof LARGE): { bytes: number; largest: number } {
  Deno.writeTextFileSync(`${folder}/config.json`, JSON.stringify(json));
  // Normal numbers in bf16, over and over: a weight's values do not change how it is loaded.
  const pattern = new Uint16Array(1 << 22);
  for (let i = 0; i < pattern.length; i++) {
    const normal = Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(Math.random() * 6.2832);
    pattern[i] = new Uint32Array(Float32Array.of(0.02 * normal).buffer)[0] >>> 16;
  }
  const weight_map: Record<string, string> = {};
  let [bytes, largest, shards] = [0, 0, 0];
  let names: [string, number, readonly number[]][] = [];
  const end = () => {
    const file = `model-${++shards}.safetensors`;
    let at = 0;
    const header = Object.fromEntries(names.map(([name, size, shape]) => {
      weight_map[name] = file;
      return [name, { dtype: "BF16", shape, data_offsets: [at, at += size] }];
    }));
    const text = new TextEncoder().encode(JSON.stringify(header));
    using out = Deno.openSync(`${folder}/${file}`, { write: true, create: true });
    out.writeSync(new Uint8Array(BigUint64Array.of(BigInt(text.length)).buffer));
    out.writeSync(text);
    const source = new Uint8Array(pattern.buffer);
    for (let left = at; left > 0;) left -= out.writeSync(source.subarray(0, left));
    [bytes, names] = [bytes + at, []];
  };
  let held = 0;
  for (const [name, { shape }] of blueprintOf(json, "config.json").weights) {
    const size = 2 * sizeOf(shape);
    names.push([name, size, shape]);
    largest = Math.max(largest, size);
    if ((held += size) < SHARD) continue;
    end();
    held = 0;
  }
  if (names.length > 0) end();
  Deno.writeTextFileSync(`${folder}/model.safetensors.index.json`, JSON.stringify({ weight_map }));
  return { bytes, largest };
}

/** The types of the GGUF file: ggml's number, weights of a block, its bytes. */
const GGUF_TYPES = { norm: [0, 1, 4], embedding: [8, 32, 34], linear: [2, 32, 18] } as const;

/** Writes the same model as one GGUF file. */
function writeGguf(path: string, json: typeof LARGE): { bytes: number; largest: number } {
  const [tensors, sizes]: [TestTensor[], [keyof typeof GGUF_TYPES, number][]] = [[], []];
  let [at, largest] = [0, 0];
  for (const [name, { shape, role }] of blueprintOf(json, "config.json").weights) {
    const kind = role as keyof typeof GGUF_TYPES;
    const [type, block, bytes] = GGUF_TYPES[kind];
    const size = sizeOf(shape) / block * bytes;
    const own = `${ggufNameOf(name.replace(/\.weight$/, ""))}.weight`;
    tensors.push({ name: own, type, shape, data: new Uint8Array(0), offset: BigInt(at) });
    sizes.push([kind, size]);
    largest = Math.max(largest, size);
    at += size; // every size is a multiple of the alignment
  }
  const u32 = (key: string, value: number) => [`llama.${key}`, { u32: value }] as const;
  const header = ggufBytes({
    metadata: [
      ["general.architecture", { string: "llama" }],
      u32("block_count", json.num_hidden_layers),
      u32("context_length", 2048),
      u32("embedding_length", json.hidden_size),
      u32("feed_forward_length", json.intermediate_size),
      u32("attention.head_count", json.num_attention_heads),
      u32("attention.head_count_kv", json.num_key_value_heads),
      ["llama.attention.layer_norm_rms_epsilon", { f32: 1e-5 }],
      ["llama.rope.freq_base", { f32: 1e4 }],
    ],
    tensors,
  });
  using out = Deno.openSync(path, { write: true, create: true });
  out.writeSync(header);
  for (const [kind, size] of sizes) {
    // Scales of half precision at the beginning of each block; a norm's numbers are ones.
    const pattern = new Uint8Array((1 << 20) * GGUF_TYPES[kind][2]);
    if (kind === "norm") new Float32Array(pattern.buffer).fill(1);
    else {
      const view = new DataView(pattern.buffer);
      for (let i = 0; i < pattern.length; i++) pattern[i] = i * 2654435761 >>> 16;
      for (let i = 0; i < pattern.length; i += GGUF_TYPES[kind][2]) view.setFloat16(i, 1e-3, true);
    }
    for (let left = size; left > 0;) left -= out.writeSync(pattern.subarray(0, left));
  }
  return { bytes: header.length + at, largest };
}

/** In the child: loads, and says what it took. */
async function load(path: string, quantize: boolean): Promise<void> {
  using device = await openDevice();
  const start = performance.now();
  const options = quantize ? { quantize: "nf4", doubleQuant: true } as const : {};
  const model = await loadModel(device, path, options);
  await device.finish();
  const seconds = (performance.now() - start) / 1000;
  const { reserved, peak } = device.memory;
  console.log(JSON.stringify({ seconds, reserved, peak, weights: model.weightBytes }));
}

const FIELDS = ["VmRSS", "RssAnon", "RssFile", "RssShmem"] as const;
const mega = (bytes: number) => `${Math.round(bytes / 1e6)} MB`;

/** The largest values that a process's memory has until it ends. */
async function watch(child: Deno.ChildProcess): Promise<Record<string, number>> {
  const most: Record<string, number> = {};
  const timer = setInterval(() => {
    try {
      const status = Deno.readTextFileSync(`/proc/${child.pid}/status`);
      for (const field of FIELDS) {
        const found = new RegExp(`^${field}:\\s*(\\d+)`, "m").exec(status);
        if (found) most[field] = Math.max(most[field] ?? 0, 1024 * Number(found[1]));
      }
    } catch {
      // It has ended.
    }
  }, 5);
  await child.status;
  clearInterval(timer);
  return most;
}

if (Deno.args[0] === "load") await load(Deno.args[1], Deno.args[2] !== "kept");
else {
  const folder = await Deno.makeTempDir({ prefix: "nibble-large-" });
  try {
    const isGguf = Deno.args[0]?.startsWith("gguf");
    const layers = Number(Deno.args[isGguf ? 1 : 0] ?? LARGE.num_hidden_layers);
    const json = Deno.args[0] === "small" ? SMALL : { ...LARGE, num_hidden_layers: layers };
    const model = isGguf ? `${folder}/model.gguf` : folder;
    const { bytes, largest } = isGguf ? writeGguf(model, json) : writeModel(folder, json);
    console.log(`made ${mega(bytes)}, its largest tensor ${mega(largest)}`);
    const kept = Deno.args[0] === "gguf" ? ["kept"] : [];
    for (const path of [null, model]) {
      // Without a model first: what Deno and the driver take by themselves.
      const args = path ? ["run", "-A", import.meta.filename!, "load", path, ...kept] : [
        "eval",
        `import { openDevice } from "${
          import.meta.resolve("../core/device.ts")
        }"; using d = await openDevice(); await new Promise((go) => setTimeout(go, 300))`,
      ];
      const child = new Deno.Command(Deno.execPath(), { args, stdout: "inherit" }).spawn();
      const most = await watch(child);
      const shown = FIELDS.map((field) => `${field} ${mega(most[field] ?? 0)}`).join(", ");
      console.log(`${path ? "loading" : "a device alone"}: at most ${shown}`);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
