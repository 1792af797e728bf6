/**
 * llama.cpp's names and order of rows.
 *
 * @module
 */

/** llama.cpp's names by Hugging Face's, outside and inside of blocks. */
const NAMES: ReadonlyMap<string, string> = new Map([
  ["model.embed_tokens", "token_embd"],
  ["model.norm", "output_norm"],
  ["lm_head", "output"],
]);
const BLOCK_NAMES: ReadonlyMap<string, string> = new Map([
  ["input_layernorm", "attn_norm"],
  ["self_attn.q_proj", "attn_q"],
  ["self_attn.k_proj", "attn_k"],
  ["self_attn.v_proj", "attn_v"],
  ["self_attn.o_proj", "attn_output"],
  ["self_attn.q_norm", "attn_q_norm"],
  ["self_attn.k_norm", "attn_k_norm"],
  ["post_attention_layernorm", "ffn_norm"],
  ["mlp.gate_proj", "ffn_gate"],
  ["mlp.up_proj", "ffn_up"],
  ["mlp.down_proj", "ffn_down"],
]);

/** llama.cpp's name for a module of a model of Llama's kind, by its path. */
export function ggufNameOf(path: string): string {
  const [, block, own] = /^model\.layers\.(\d+)\.(.+)$/.exec(path) ?? [];
  const name = block === undefined ? NAMES.get(path) : BLOCK_NAMES.get(own);
  if (name) return block === undefined ? name : `blk.${block}.${name}`;
  throw new TypeError(`Cannot write "${path}" as GGUF: found no name for it in llama.cpp`);
}

function turnedOver(names: ReadonlyMap<string, string>): ReadonlyMap<string, string> {
  return new Map([...names].map(([theirs, own]) => [own, theirs]));
}

/** Hugging Face's names by llama.cpp's, outside of blocks. */
export const HUB_NAMES: ReadonlyMap<string, string> = turnedOver(NAMES);

/** The same inside of blocks. */
export const HUB_BLOCK_NAMES: ReadonlyMap<string, string> = turnedOver(BLOCK_NAMES);

/** Whether llama.cpp has the rows of this module in an order of its own, for a model that it calls "llama". */
export function isPermuted(architecture: string, path: string): boolean {
  return architecture === "llama" && /\.[qk]_proj$/.test(path);
}

/**
 * Puts the rows of q or k as llama.cpp's converter does it: it rotates neighbouring rows of a head together, transformers row j
 * with row j + half. So they become 0, half, 1, half + 1, …
 *
 * @param numbers row-major, of any width; also a bias
 * @param rows how many
 * @param headSize rows of a head
 */
export function permuteRows(
  numbers: Float32Array,
  rows: number,
  headSize: number,
): Float32Array<ArrayBuffer> {
  const result = new Float32Array(numbers.length);
  const width = numbers.length / rows;
  const half = headSize / 2;
  for (let row = 0; row < rows; row++) {
    const inHead = row % headSize;
    const to = row - inHead + 2 * (inHead % half) + Math.floor(inHead / half);
    result.set(numbers.subarray(row * width, (row + 1) * width), to * width);
  }
  return result;
}
