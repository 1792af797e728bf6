/**
 * Measures what loading a large model takes: `deno run -A tests/large_load.ts [layers] [width]`. It makes a Llama of bf16 in shards
 * (4.2 GB by default) in a temporary folder, loads it into NF4 with double quantization in another process, and shows that process's
 * memory. With software Vulkan the GPU's memory is the process's own, so what the device reserved is shown too.
 *
 * With `small`, it makes a model of SmolLM2-135M's shape instead and only shows times.
 */
// deno-lint-ignore-file camelcase no-console -- the fields are config.json's; a script shows what it found
import { openDevice } from "../core/device.ts";
import { sizeOf } from "../core/shape.ts";
import { blueprintOf } from "../train/models/architectures.ts";
import { loadModel } from "../train/models/load.ts";

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

/** In the child: loads, and says what it took. */
async function load(folder: string): Promise<void> {
  using device = await openDevice();
  const start = performance.now();
  const model = await loadModel(device, folder, { quantize: "nf4", doubleQuant: true });
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

if (Deno.args[0] === "load") await load(Deno.args[1]);
else {
  const folder = await Deno.makeTempDir({ prefix: "nibble-large-" });
  try {
    const json = Deno.args[0] === "small"
      ? SMALL
      : { ...LARGE, num_hidden_layers: Number(Deno.args[0] ?? LARGE.num_hidden_layers) };
    const { bytes, largest } = writeModel(folder, json);
    console.log(`made ${mega(bytes)}, its largest tensor ${mega(largest)}`);
    for (const path of [null, folder]) {
      // Without a model first: what Deno and the driver take by themselves.
      const args = path ? ["run", "-A", import.meta.filename!, "load", path] : [
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
