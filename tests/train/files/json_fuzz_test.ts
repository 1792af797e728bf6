// deno-lint-ignore-file camelcase -- the fields are those of the files
import fc from "fast-check";
import { device } from "../../device.ts";
import { addLora } from "../../../train/adapters/lora.ts";
import { loadAdapter, saveAdapter } from "../../../train/adapters/peft.ts";
import { readFourBit, storeFourBit } from "../../../train/files/bitsandbytes.ts";
import { readConfig } from "../../../train/files/config.ts";
import { readIntegerConfig } from "../../../train/files/compressed_config.ts";
import { saysFourBit } from "../../../train/files/quantization_config.ts";
import {
  openCheckpoint,
  SafetensorsFile,
  writeSafetensors,
} from "../../../train/files/safetensors.ts";
import {
  type Json,
  loadTokenizer,
  saveTokenizer,
  Tokenizer,
} from "../../../train/files/tokenizer.ts";
import { trainBpe } from "../../../train/data/bpe.ts";
import { blueprintOf } from "../../../train/models/architectures.ts";
import { randomModel } from "../../../train/models/load.ts";
import { assert } from "../../assert.ts";
import { peakDuring } from "../../peak_memory.ts";

/** Cases of each of five kinds. */
const RUNS = 2500;

/** Every case must be over after so long, in ms. */
const LIMIT = 1000;

/** And may take so many bytes. */
const MEMORY = 100e6;

const folder = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));

/** What the engine says where nobody checked. */
const ENGINE =
  /of undefined|is undefined|is not a function|not iterable|Invalid (array|string|typed)|call stack|of null|primitive|is not a constructor|circular|BigInt/;

/** Runs `read`, which works, or ends in an error that nibble wrote, in time. */
async function isHandled(read: () => unknown): Promise<"read" | "refused"> {
  const start = performance.now();
  try {
    await read();
    return "read";
  } catch (error) {
    const { message } = error as Error;
    assert(/^Cannot .{10}/s.test(message) && !ENGINE.test(message), `Of the engine: ${error}`);
    assert(message.length < 1500, `A message of ${message.length} characters`);
    return "refused";
  } finally {
    const time = performance.now() - start;
    assert(time < LIMIT, `${time} ms, at most ${LIMIT} are allowed`);
  }
}

const odd = fc.oneof(
  fc.constantFrom<unknown>(
    null,
    true,
    "",
    "x",
    0,
    -1,
    0.5,
    1e400,
    2 ** 53,
    2 ** 31,
    1e-320,
    [],
    {},
  ),
  fc.constantFrom<unknown>([null], [[]], { type: "x" }, "a".repeat(400), Array(3000).fill(7), [
    {},
  ]),
  fc.jsonValue({ maxDepth: 3 }),
);
/** Which of the fields, depth first, is replaced by what; or removed. */
const change = fc.record({ at: fc.nat(200), value: fc.option(odd, { nil: undefined }) });
const text = fc.oneof(
  { arbitrary: fc.constant(null), weight: 15 },
  {
    arbitrary: fc.record({
      at: fc.double({ min: 0, max: 1, noNaN: true }),
      put: fc.constantFrom("", "[".repeat(1e5), '{"a":', "\0", "}", '"', "1e999"),
    }),
    weight: 1,
  },
);
const changes = fc.tuple(fc.array(change, { minLength: 1, maxLength: 3 }), text);
type Changes = typeof changes extends fc.Arbitrary<infer T> ? T : never;

/** Every place of a value in JSON, its own first; of long lists and vocabularies only the beginning. */
function placesIn(value: unknown): [owner: Record<string, unknown>, key: string][] {
  if (typeof value !== "object" || value === null) return [];
  const owner = value as Record<string, unknown>;
  return Object.keys(owner).slice(0, 40).flatMap((key) => [
    [owner, key] as [Record<string, unknown>, string],
    ...placesIn(owner[key]),
  ]);
}

/** The text of a JSON after these changes. */
function changed(json: Json, [list, broken]: Changes): string {
  const own = structuredClone(json);
  for (const { at, value } of list) {
    const places = placesIn(own);
    if (places.length === 0) continue;
    const [owner, key] = places[at % places.length];
    if (value === undefined) delete owner[key];
    else owner[key] = structuredClone(value); // or later changes would change it
  }
  const result = JSON.stringify(own);
  if (!broken) return result;
  const at = Math.floor(broken.at * result.length);
  return result.slice(0, at) + broken.put + (broken.put ? result.slice(at) : "");
}

/** Tries so many changes of a JSON. */
async function fuzz(json: Json, seed: number, read: (text: string) => unknown): Promise<void> {
  const count = { read: 0, refused: 0 };
  await fc.assert(
    fc.asyncProperty(changes, async (list) => {
      const text = changed(json, list);
      count[await isHandled(() => read(text))]++;
    }),
    { numRuns: RUNS, seed, endOnFailure: true },
  );
  assert(count.read > 0 && count.refused > RUNS / 5, JSON.stringify(count));
}

const LLAMA = {
  model_type: "llama",
  vocab_size: 280,
  hidden_size: 64,
  intermediate_size: 128,
  num_hidden_layers: 1,
  num_attention_heads: 4,
  num_key_value_heads: 2,
};

Deno.test(`${RUNS} mutated config.json are understood, or refused with a reason`, async () => {
  const json = {
    ...LLAMA,
    hidden_act: "silu",
    rms_norm_eps: 1e-5,
    max_position_embeddings: 512,
    rope_scaling: { rope_type: "yarn", factor: 2, beta_fast: 32, mscale: 1, mscale_all_dim: 1 },
    quantization_config: { load_in_4bit: true, quant_method: "bitsandbytes" },
    tie_word_embeddings: true,
  };
  await fuzz(json, 1, async (text) => {
    Deno.writeTextFileSync(`${folder}/config.json`, text);
    const { json, path } = await readConfig(folder);
    blueprintOf(json, path);
    saysFourBit(json, path);
  });
});

Deno.test(`${RUNS} mutated config.json of integers are understood, or refused with a reason`, async () => {
  const weights = { num_bits: 4, type: "int", symmetric: false, strategy: "group", group_size: 64 };
  const inputs = { num_bits: 8, type: "int", symmetric: true, strategy: "token", dynamic: true };
  const groups = {
    group_0: { targets: ["Linear"], weights, input_activations: inputs, format: "int-quantized" },
    group_1: { targets: ["re:.*down_proj$"], weights, input_activations: null },
  };
  const json = {
    ...LLAMA,
    quantization_config: {
      quant_method: "compressed-tensors",
      format: "mixed-precision",
      config_groups: groups,
      ignore: ["lm_head"],
      nibble: { inputs: { group_0: { bits: 8, kind: "symmetric" } } },
    },
  };
  await fuzz(json, 3, async (text) => {
    Deno.writeTextFileSync(`${folder}/config.json`, text);
    const { json, path } = await readConfig(folder);
    blueprintOf(json, path);
    const config = readIntegerConfig(json, path);
    if (config) config.inputsOf("model.layers.0.mlp.down_proj");
    else saysFourBit(json, path);
  });
});

Deno.test(`${RUNS} mutated config.json of GPT-2 are understood, or refused with a reason`, async () => {
  const json = {
    model_type: "gpt2",
    vocab_size: 280,
    n_embd: 64,
    n_layer: 1,
    n_head: 4,
    n_positions: 64,
    n_inner: null,
    activation_function: "gelu_new",
    layer_norm_epsilon: 1e-5,
  };
  await fuzz(json, 2, async (text) => {
    Deno.writeTextFileSync(`${folder}/config.json`, text);
    const { json, path } = await readConfig(folder);
    blueprintOf(json, path);
  });
});

Deno.test(`${RUNS} mutated tokenizer.json are understood, or refused with a reason`, async () => {
  const home = `${folder}/tokenizer`;
  Deno.mkdirSync(home);
  const json = trainBpe(["a cat, a bat, a hat"], { vocabSize: 270, specialTokens: ["<end>"] });
  await saveTokenizer(new Tokenizer(json, { config: { eos_token: "<end>" } }), home);
  await fuzz(json, 3, async (text) => {
    Deno.writeTextFileSync(`${home}/tokenizer.json`, text);
    const tokenizer = await loadTokenizer(home);
    tokenizer.decode(tokenizer.encode("a cat"));
  });
});

Deno.test(`${RUNS} mutated adapter_config.json are understood, or refused with a reason`, async () => {
  const model = randomModel(device, LLAMA);
  const home = `${folder}/adapter`;
  Deno.mkdirSync(home);
  const lora = addLora(model, { r: 4, targetModules: ["q_proj", "v_proj"] });
  await saveAdapter(lora, home);
  lora.remove();
  const json = JSON.parse(Deno.readTextFileSync(`${home}/adapter_config.json`));
  await fuzz(json, 4, async (text) => {
    Deno.writeTextFileSync(`${home}/adapter_config.json`, text);
    (await loadAdapter(model, home)).remove();
  });
});

Deno.test(`${RUNS} mutated quantization states are understood, or refused with a reason`, async () => {
  const scales = {
    codes: new Uint8Array(2),
    nestedAbsmax: Float32Array.of(1),
    map: new Float32Array(256),
    offset: 0.5,
  };
  const bytes = { packed: new Uint8Array(64).fill(0x77), scales };
  const tensors = storeFourBit("w", {
    bytes,
    shape: [2, 64],
    type: "nf4",
    blockSize: 64,
    dtype: "float32",
  });
  const key = "w.quant_state.bitsandbytes__nf4";
  const json = JSON.parse(new TextDecoder().decode(tensors.get(key)!.data as Uint8Array));
  await fuzz(json, 5, async (text) => {
    const data = new TextEncoder().encode(text);
    const path = `${folder}/state.safetensors`;
    await writeSafetensors(
      path,
      new Map([...tensors, [key, { dtype: "U8", shape: [data.length], data }]]),
    );
    using file = await SafetensorsFile.open(path);
    await readFourBit(file, "w");
  });
});

Deno.test("a key twice is refused, and so are files made to take memory and time, without either", async () => {
  const config = JSON.stringify(LLAMA);
  const home = `${folder}/bombs`;
  Deno.mkdirSync(home);
  const refused = async (name: string, text: string, reason: RegExp) => {
    Deno.writeTextFileSync(`${home}/${name}`, text);
    const read = name === "config.json"
      ? () => readConfig(home)
      : name === "tokenizer.json"
      ? () => loadTokenizer(home)
      : () => openCheckpoint(home);
    let message = "";
    const { peak, result } = await peakDuring(() =>
      isHandled(async () => {
        try {
          await read();
        } catch (error) {
          message = (error as Error).message;
          throw error;
        }
      })
    );
    assert(result === "refused" && reason.test(message), `${name}: ${message}`);
    assert(peak === null || peak < MEMORY, `${name}: ${peak} bytes for ${message}`);
  };
  const twice = (key: string) => new RegExp(`found "${key}" twice, wanted each key once`);
  await refused("config.json", config.replace("{", '{"vocab_size":5,'), twice("vocab_size"));
  const nested = config.replace("{", '{"rope_scaling":{"type":"linear","type":"yarn"},');
  await refused("config.json", nested, twice("type"));
  const shard = '{"weight_map":{"a":"x.safetensors","a":"y.safetensors"}}';
  await refused("model.safetensors.index.json", shard, twice("a"));
  await refused("tokenizer.json", '{"model":{},"model":{}}', twice("model"));
  const many = (count: number, part: (i: number) => string, close = "}") =>
    `{${Array.from({ length: count }, (_, i) => part(i)).join()}${close}`;
  await refused("config.json", many(150_000, (i) => `"${i}":{}`), /more than 100000 values/);
  await refused("config.json", `{"a":"${"x".repeat(3e6)}"}`, /has 300000\d bytes, wanted at most/);
  const shards = many(500_000, (i) => `"${i}":""`);
  await refused("model.safetensors.index.json", `{"weight_map":${shards}}`, /than 400000 values/);
  await refused("tokenizer.json", `{"a":[${"{},".repeat(3e6)}{}]}`, /more than 2500000 values/);
  await refused("tokenizer.json", "[".repeat(5e6), /nested more than 64 deep/);
});
