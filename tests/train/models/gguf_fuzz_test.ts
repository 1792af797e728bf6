import fc from "fast-check";
import { openGgufModel } from "../../../train/models/gguf.ts";
import { assert } from "../../assert.ts";
import { f32Bytes, ggufBytes, type TestTensor, type Value } from "../files/gguf_bytes.ts";

const RUNS = 4000;

/** Every case must be over after so long, in ms. */
const LIMIT = 1000;

const METADATA: readonly (readonly [string, Value])[] = [
  ["general.architecture", { string: "llama" }],
  ["llama.block_count", { u32: 1 }],
  ["llama.context_length", { u32: 16 }],
  ["llama.embedding_length", { u32: 8 }],
  ["llama.feed_forward_length", { u32: 4 }],
  ["llama.attention.head_count", { u32: 2 }],
  ["llama.attention.head_count_kv", { u32: 1 }],
  ["llama.attention.layer_norm_rms_epsilon", { f32: 1e-5 }],
  ["llama.rope.freq_base", { f32: 1e4 }],
  ["tokenizer.ggml.model", { string: "gpt2" }],
  ["tokenizer.ggml.pre", { string: "smollm" }],
  ["tokenizer.ggml.tokens", { array: "string", of: ["a", "b", "ab", "<s>"] }],
  ["tokenizer.ggml.token_type", { array: "i32", of: [1, 1, 1, 3] }],
  ["tokenizer.ggml.scores", { array: "f32", of: [0, -1, -2, 0] }],
  ["tokenizer.ggml.merges", { array: "string", of: ["a b"] }],
  ["tokenizer.ggml.bos_token_id", { u32: 3 }],
  ["tokenizer.chat_template", { string: "{{ messages }}" }],
];

const zeros = (name: string, ...shape: number[]): TestTensor => ({
  name,
  type: 0,
  shape,
  data: f32Bytes(...new Array(shape.reduce((a, b) => a * b, 1)).fill(0)),
});
const TENSORS: readonly TestTensor[] = [
  zeros("token_embd.weight", 4, 8),
  zeros("output_norm.weight", 8),
  zeros("blk.0.attn_q.weight", 8, 8),
  zeros("blk.0.attn_k.weight", 4, 8),
];

/** Whatever a file could say in the place of a value. */
const value: fc.Arbitrary<Value> = fc.oneof(
  fc.string({ maxLength: 8 }).map((string) => ({ string })),
  fc.constantFrom("llama", "qwen2", "gpt2", "linear", "yarn").map((string) => ({ string })),
  fc.constantFrom(0n, 1n, 2n ** 31n, 2n ** 53n, 2n ** 64n - 1n).map((u64) => ({ u64 })),
  fc.nat(20).map((u32) => ({ u32 })),
  fc.oneof(fc.float(), fc.constantFrom(NaN, Infinity, -1)).map((f32) => ({ f32 })),
  fc.boolean().map((bool) => ({ bool })),
  fc.array(fc.string({ maxLength: 3 }), { maxLength: 5 }).map((of) => ({ array: "string", of })),
  fc.array(fc.integer({ min: -9, max: 9 }), { maxLength: 5 }).map((of) => ({ array: "i32", of })),
  fc.array(fc.float(), { minLength: 4, maxLength: 4 }).map((of) => ({ array: "f32", of })),
);
const keys = [
  ...METADATA.map(([key]) => key),
  "general.type",
  "split.count",
  "llama.rope.scaling.type",
  "llama.rope.scaling.factor",
  "llama.attention.key_length",
  "tokenizer.ggml.add_bos_token",
];
const change = fc.tuple(fc.constantFrom(...keys), fc.option(value));
const renaming = fc.tuple(
  fc.nat(TENSORS.length - 1),
  fc.constantFrom("output.weight", "rope_freqs.weight", "blk.99999999999.attn_q.bias", "x", ""),
);

const folder = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));
const path = `${folder}/fuzzed.gguf`;

Deno.test(`${RUNS} files with wrong metadata and tensors are opened, or refused with a reason`, async () => {
  const count = { opened: 0, refused: 0 };
  const changes = fc.array(change, { maxLength: 3 });
  await fc.assert(
    fc.asyncProperty(changes, fc.option(renaming), async (changed, renamed) => {
      const metadata = new Map<string, Value>(METADATA);
      for (const [key, own] of changed) own ? metadata.set(key, own) : metadata.delete(key);
      const tensors = TENSORS.map((tensor, i) =>
        renamed?.[0] === i ? { ...tensor, name: renamed[1] } : tensor
      );
      Deno.writeFileSync(path, ggufBytes({ metadata: [...metadata], tensors }));
      const start = performance.now();
      try {
        const model = await openGgufModel(path);
        using source = model.source;
        for (const name of source.entries.keys()) await source.readFloats(name);
        model.tokenizer?.encodeWithSpecials("abc ab\n12 <s>");
        count.opened++;
      } catch (error) {
        assert(/^Cannot .{10}/s.test((error as Error).message), `An error of the engine: ${error}`);
        count.refused++;
      }
      const time = performance.now() - start;
      assert(time < LIMIT, `${time} ms, at most ${LIMIT} are allowed`);
    }),
    { numRuns: RUNS, seed: 9 },
  );
  assert(Math.min(count.opened, count.refused) > RUNS / 10, JSON.stringify(count));
});
