/**
 * One batch of prompts and the tokens that the model goes on with.
 *
 * @module
 */
import { noGrad } from "../../core/autograd.ts";
import { capture } from "../../core/capture.ts";
import { type Tensor, tensor, zeros } from "../../core/tensor.ts";
import { advance, type GenerationState } from "../../kernels/sample/advance.ts";
import { sample, type SampleOptions } from "../../kernels/sample/sample.ts";
import type { KeyValueCache, LanguageModel } from "../models/language_model.ts";

/** A prompt in a batch. */
export interface PromptRow {
  /** Its tokens. */
  readonly ids: ArrayLike<number>;
  /** The stream that its random numbers come from: its place among all prompts, whatever batch it is in. */
  readonly stream: number;
  /** The most tokens to go on with, at least 1. */
  readonly limit: number;
}

/** How all rows of a batch are generated. */
export interface BatchOptions extends SampleOptions {
  /** 32 bits. */
  readonly seed: number;
  /** The tokens that end an answer. */
  readonly ends: readonly number[];
  /** Prompts are padded to this length, at least that of the longest. */
  readonly length: number;
  /** Told after each block of tokens but the last: what each row has so far. */
  readonly onBlock?: (answers: readonly Int32Array<ArrayBuffer>[]) => void;
}

/**
 * Tokens are queued in blocks, and only after each block the host asks who is done: waiting for an answer takes as long as some
 * tokens do. The first block is short, because many answers are.
 */
const FIRST_BLOCK = 16;
const LATER_BLOCK = 32;

/**
 * Tokens of a submission, which costs the host as much as a tenth of a token's commands. The first tokens of a block go one by one,
 * so that the GPU has work at once.
 */
const SUBMITTED = 4;

/** Cache lengths are rounded up to this, so that a few sizes of buffer serve all batches. */
const SLOT_GRAIN = 64;

/** The memory of a batch, and the work that goes into it. */
class Generation implements Disposable {
  readonly #model: LanguageModel;
  readonly #rows: readonly PromptRow[];
  readonly #options: BatchOptions;
  readonly #cache: KeyValueCache;
  readonly #ends: Tensor;
  readonly #state: GenerationState;
  readonly #step: { (): void; dispose(): void };

  constructor(model: LanguageModel, rows: readonly PromptRow[], options: BatchOptions) {
    const { device } = model;
    const { length, seed, ends } = options;
    this.#model = model;
    this.#rows = rows;
    this.#options = options;
    // The last token of an answer is not seen by the model, so it takes no slot.
    const slots = length + this.steps - 1;
    this.#cache = model.newCache(rows.length, Math.ceil(slots / SLOT_GRAIN) * SLOT_GRAIN);
    this.#ends = tensor(device, Int32Array.from(ends));
    this.#state = {
      ids: zeros(device, [rows.length, 1], "i32"),
      // advance() counts up before the first use: these are the places of the prompts' last tokens.
      positions: tensor(device, Int32Array.from(rows, (row) => row.ids.length - 1), [
        rows.length,
        1,
      ]),
      past: this.#cache.past,
      counters: tensor(device, Uint32Array.of(seed, 0, ...rows.map(({ stream }) => stream))),
      done: zeros(device, [rows.length], "i32"),
      out: zeros(device, [this.steps, rows.length], "i32"),
    };
    for (const own of this.#own()) device.keep(own);
    const { ids, positions } = this.#state;
    this.#step = capture(device, () => {
      noGrad(() => this.#choose(model.forward(ids, { positions, cache: this.#cache }), 1));
    });
  }

  /** How many tokens the longest answer may have. */
  get steps(): number {
    return Math.max(...this.#rows.map(({ limit }) => limit));
  }

  /** In the order in which they were made: freed from last to first, the next batch takes the same buffers in the same places. */
  *#own(): Generator<Tensor> {
    yield this.#cache.past;
    for (const { keys, values } of this.#cache.blocks) yield* [keys, values];
    yield this.#ends;
    const { past: _, ...state } = this.#state;
    yield* Object.values(state);
  }

  #choose(logits: Tensor, seen: number): void {
    const tokens = sample(logits, this.#options, this.#state.counters);
    const pad = this.#options.ends[0] ?? 0;
    advance(this.#state, tokens, { ends: this.#ends, pad, seen });
  }

  /** The model sees the prompts, and the first tokens are chosen. */
  #begin(): void {
    const { device } = this.#model;
    const { length } = this.#options;
    const shape = [this.#rows.length, length];
    const ids = new Int32Array(shape[0] * length);
    const positions = new Int32Array(ids.length);
    this.#rows.forEach((row, index) => {
      const pads = length - row.ids.length;
      ids.set(row.ids, index * length + pads);
      // Pads are a sequence of their own, which the prompt, beginning at 0 again, does not look back to.
      for (let i = 0; i < length; i++) positions[index * length + i] = i < pads ? i : i - pads;
    });
    const places = Int32Array.from(this.#rows, (_, index) => (index + 1) * length - 1);
    device.scope(() =>
      noGrad(() => {
        const logits = this.#model.forward(tensor(device, ids, shape), {
          positions: tensor(device, positions, shape),
          places: tensor(device, places),
          cache: this.#cache,
        });
        this.#choose(logits, length);
      })
    );
    device.flush();
  }

  async #areDone(made: number): Promise<boolean> {
    const done = await this.#state.done.read();
    return this.#rows.every(({ limit }, index) => done[index] === 1 || made >= limit);
  }

  /** What each row has after so many tokens, up to its end token. */
  async #answers(made: number): Promise<Int32Array<ArrayBuffer>[]> {
    const out = await this.#state.out.read();
    return this.#rows.map(({ limit }, index) => this.#answer(out, index, Math.min(limit, made)));
  }

  /** Queues the next tokens, up to `until`. */
  #queue(made: number, until: number): void {
    const { device } = this.#model;
    for (let count = 1; made < until; made++, count++) {
      this.#step();
      if (count < SUBMITTED || count % SUBMITTED === 0) device.flush();
    }
    device.flush();
  }

  /**
   * Generates until every row is done or full. A GPU is given a block while the host still waits to hear of the one before: the
   * wait takes as long as a dozen tokens. Software Vulkan has no time to lose on tokens that nobody wants.
   */
  async run(): Promise<Int32Array<ArrayBuffer>[]> {
    const { onBlock } = this.#options;
    const ahead = this.#model.device.adapter.type === "gpu";
    this.#begin();
    let made = 1;
    let earlier: Promise<boolean> | null = null;
    while (made < this.steps) {
      const first = made === 1;
      const until = Math.min(made + (first ? FIRST_BLOCK - 1 : LATER_BLOCK), this.steps);
      this.#queue(made, until);
      made = until;
      if (made >= this.steps) break;
      const told = this.#report(made, onBlock);
      const wait = ahead && !first ? earlier : told;
      earlier = told;
      if (wait && await wait) break;
    }
    // Nobody waits for it any more, but it must not fail unheard.
    await earlier;
    return await this.#answers(made);
  }

  /** Whether all rows are done after so many tokens; if not, what they have is told. The reads begin at once. */
  async #report(made: number, onBlock: BatchOptions["onBlock"]): Promise<boolean> {
    const [done, answers] = await Promise.all([
      this.#areDone(made),
      onBlock ? this.#answers(made) : [],
    ]);
    if (!done) onBlock?.(answers);
    return done;
  }

  #answer(out: ArrayLike<number>, row: number, most: number): Int32Array<ArrayBuffer> {
    const count = this.#rows.length;
    const line = Int32Array.from({ length: most }, (_, step) => out[step * count + row]);
    const end = line.findIndex((token) => this.#options.ends.includes(token));
    return end < 0 ? line : line.slice(0, end);
  }

  [Symbol.dispose](): void {
    this.#step.dispose();
    for (const own of [...this.#own()].reverse()) own.dispose();
  }
}

/** The answers of one batch, without the tokens that end them. */
export async function generateBatch(
  model: LanguageModel,
  rows: readonly PromptRow[],
  options: BatchOptions,
): Promise<Int32Array<ArrayBuffer>[]> {
  using generation = new Generation(model, rows, options);
  return await generation.run();
}
