/**
 * LoRA as llama.cpp's adapter files.
 *
 * @module
 */
import { basename } from "node:path";
import { type GgufField, type GgufTensor, writeGguf } from "../files/gguf_write.ts";
import { ggufArchitecture } from "../models/gguf_export_config.ts";
import { ggufNameOf, isPermuted, permuteRows } from "../models/gguf_names.ts";
import type { Lora } from "./lora.ts";

/** Throws if the adapter does what llama.cpp has no place for. */
function checkOptions({ options }: Lora): void {
  const { useDora, init, modulesToSave } = options;
  const found = useDora
    ? "DoRA, which scales rows of the whole weight"
    : modulesToSave.length > 0
    ? `modules that were trained whole (${modulesToSave.join(", ")})`
    : init === "pissa" || init === "olora"
    ? `init "${init}", which took a part out of the model's own weights`
    : null;
  if (found === null) return;
  throw new TypeError(
    `Cannot write the adapter as GGUF: found ${found}, wanted plain LoRA; merge it, and write the model (mergeAdapter and saveGguf, or nibble export --merge)`,
  );
}

/**
 * Writes a LoRA as a GGUF adapter for llama.cpp's `--lora`. llama.cpp knows one alpha, and scales each layer by alpha / rank; where
 * a layer's own scale differs, with rank-stabilized LoRA or an alpha pattern, B is multiplied by the difference, so that the
 * update is the same. Numbers are in 32 bits.
 *
 * @param lora the adapter, on a Llama, Mistral, Qwen2 or Qwen3
 * @param path where to; a file that is there is replaced
 * @throws {TypeError} if llama.cpp cannot have it: DoRA, modules trained whole, init "pissa" or "olora", another architecture
 * @throws {RangeError} if a weight is NaN or infinite
 * @throws {Error} if the file cannot be written
 *
 * @example
 * ```ts
 * import { addLora, GgufFile, openDevice, randomModel, saveGgufAdapter } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const model = randomModel(device, {
 *   model_type: "llama",
 *   vocab_size: 320,
 *   hidden_size: 64,
 *   intermediate_size: 128,
 *   num_hidden_layers: 2,
 *   num_attention_heads: 4,
 * });
 * const lora = addLora(model, { r: 4, alpha: 8, useRslora: true, targetModules: ["v_proj"] });
 * const path = `${await Deno.makeTempDir()}/adapter.gguf`;
 * await saveGgufAdapter(lora, path);
 * using file = await GgufFile.open(path);
 * console.log([...file.entries.keys()][0]); // blk.0.attn_v.weight.lora_a
 * ```
 */
export async function saveGgufAdapter(lora: Lora, path: string): Promise<void> {
  checkOptions(lora);
  const { architecture, config } = ggufArchitecture(lora.model);
  const { alpha } = lora.options;
  const tensors = new Map<string, GgufTensor>();
  for (const [own, { a, b, r, scaling }] of lora.branches) {
    const name = `${ggufNameOf(own)}.weight`;
    const factor = scaling * r / alpha;
    tensors.set(`${name}.lora_a`, {
      dtype: "F32",
      shape: a.shape,
      read: async () => await a.read() as Float32Array,
    });
    tensors.set(`${name}.lora_b`, {
      dtype: "F32",
      shape: b.shape,
      read: async () => {
        const scaled = (await b.read() as Float32Array).map((number) => number * factor);
        return isPermuted(architecture, own)
          ? permuteRows(scaled, b.shape[0], config.headSize)
          : scaled;
      },
    });
  }
  const metadata = new Map<string, GgufField>([
    ["general.architecture", architecture],
    ["general.type", "adapter"],
    ["general.name", basename(path).replace(/\.gguf$/i, "")],
    ["general.file_type", { type: "u32", value: 0 }],
    ["adapter.type", "lora"],
    ["adapter.lora.alpha", { type: "f32", value: alpha }],
  ]);
  await writeGguf(path, metadata, tensors);
}
