/**
 * From one generated token to the next on the GPU, so that generation never waits for the host.
 *
 * @module
 */
import { uniform } from "../../core/binding.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType, checkIsShape } from "../../core/shape.ts";
import type { Tensor } from "../../core/tensor.ts";
import code from "./advance.wgsl" with { type: "text" };

const advanceKernel = kernel("advance", code);

/** Where a generation stands: what the next step of the model reads, and what was generated so far. */
export interface GenerationState {
  /** i32 [rows, 1]: the tokens that the model sees next. */
  readonly ids: Tensor;
  /** i32 [rows, 1]: their places, each in its own sequence. */
  readonly positions: Tensor;
  /** i32 [1]: how many slots of the key/value cache are filled. */
  readonly past: Tensor;
  /** u32 [2], or [2 + rows]: seed, step and each row's stream, as `sample` reads them. */
  readonly counters: Tensor;
  /** i32 [rows]: 1 where an end token was generated. */
  readonly done: Tensor;
  /** i32 [steps, rows]: the tokens of each step. */
  readonly out: Tensor;
}

/** What `advance` must know besides the state. */
export interface AdvanceOptions {
  /** i32 [ends]: the tokens that end a row. With none, a tensor of −1, which no token is. */
  readonly ends: Tensor;
  /** The token for rows that have ended. */
  readonly pad: number;
  /** How many tokens of each row the model saw in this step: those of the prompt at first, then 1, the default. */
  readonly seen?: number;
}

/**
 * Moves a generation on by one step, in place: notes the chosen tokens in `out`, marks rows that ended, and sets ids, positions,
 * `past` and the step for the next application of the model. Rows that ended before get the pad token.
 *
 * @param state where the generation stands
 * @param tokens i32 [rows], as `sample` chose them
 * @param options the end tokens, the pad token, how many tokens were seen
 * @throws {RangeError} if shapes do not fit
 *
 * @example
 * ```ts
 * import { advance, openDevice, tensor, zeros } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const state = {
 *   ids: zeros(device, [1, 1], "i32"),
 *   positions: tensor(device, new Int32Array([2]), [1, 1]), // the place of the prompt's last token
 *   past: zeros(device, [1], "i32"),
 *   counters: tensor(device, new Uint32Array([42, 0])),
 *   done: zeros(device, [1], "i32"),
 *   out: zeros(device, [8, 1], "i32"),
 * };
 * const ends = tensor(device, new Int32Array([7]));
 * advance(state, tensor(device, new Int32Array([5])), { ends, pad: 7, seen: 3 });
 * console.log(await state.ids.item(), await state.positions.item(), await state.past.item()); // 5 3 3
 * ```
 */
export function advance(state: GenerationState, tokens: Tensor, options: AdvanceOptions): void {
  const { ids, positions, past, counters, done, out } = state;
  const { ends, pad, seen = 1 } = options;
  const [rows] = tokens.shape;
  const wanted: readonly (readonly [string, Tensor, readonly number[]])[] = [
    ["tokens", tokens, [rows]],
    ["ends", ends, [-1]],
    ["ids", ids, [rows, 1]],
    ["positions", positions, [rows, 1]],
    ["past", past, [1]],
    ["done", done, [rows]],
    ["out", out, [-1, rows]],
  ];
  for (const [name, t, shape] of wanted) {
    checkIsShape("advance the generation", t, shape, name);
    checkDType("advance the generation", t, "i32", name);
  }
  checkDType("advance the generation", counters, "u32", "counters");
  tokens.device.dispatch(
    advanceKernel,
    [
      tokens,
      ends,
      ids,
      positions,
      past,
      counters,
      done,
      out,
      uniform(rows, out.shape[0], ends.size, pad, seen),
    ],
    [1],
  );
}
