/**
 * A trainer for byte-level BPE tokenizers (Sennrich et al., arXiv 1508.07909; on bytes, as GPT-2 has it).
 *
 * @module
 */

/** What to train: how many tokens, and which of them are special. */
export interface BpeOptions {
  /** Tokens in all, special ones and the 256 bytes included. Fewer come out where the text has no more pairs. */
  readonly vocabSize: number;
  /** Tokens that stand for themselves; they take the first ids. */
  readonly specialTokens?: readonly string[];
  /** The special token put before every text that is encoded with special tokens. */
  readonly bosToken?: string;
}

/** The part of tokenizer.json that a trained tokenizer has; save it with `JSON.stringify`. */
export interface BpeTokenizerJson extends Record<string, unknown> {
  /** The vocabulary, by token text, and the merges in the order in which they apply. */
  readonly model: {
    readonly type: "BPE";
    readonly vocab: Record<string, number>;
    readonly merges: string[];
  } & Record<string, unknown>;
}

/** GPT-2's pattern: contractions, then runs of letters, digits or signs with one space before, then white space. */
const PIECES = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

/**
 * The printable character for each byte, as GPT-2 maps them: bytes that print stand for themselves, the others follow from
 * U+0100 on.
 */
function byteCharacters(): string[] {
  const prints = (byte: number) =>
    byte >= 0x21 && byte <= 0x7e || byte >= 0xa1 && byte <= 0xac || byte >= 0xae;
  let next = 0x100;
  return Array.from(
    { length: 256 },
    (_, byte) => String.fromCodePoint(prints(byte) ? byte : next++),
  );
}

/** A pair of ids as one number, ordered by the first id, then the second. */
const SHIFT = 2 ** 24;

/** Pairs by count, most frequent first; equal counts by lower ids. Counts may be out of date: `take` is given the true ones. */
class PairQueue {
  readonly #heap: { pair: number; count: number }[] = [];

  #before(a: number, b: number): boolean {
    const [one, other] = [this.#heap[a], this.#heap[b]];
    return one.count > other.count || one.count === other.count && one.pair < other.pair;
  }

  #swap(a: number, b: number): void {
    [this.#heap[a], this.#heap[b]] = [this.#heap[b], this.#heap[a]];
  }

  push(pair: number, count: number): void {
    this.#heap.push({ pair, count });
    let at = this.#heap.length - 1;
    while (at > 0 && this.#before(at, (at - 1) >> 1)) {
      this.#swap(at, (at - 1) >> 1);
      at = (at - 1) >> 1;
    }
  }

  #pop(): { pair: number; count: number } | undefined {
    const top = this.#heap[0];
    const last = this.#heap.pop();
    if (this.#heap.length === 0 || last === undefined) return top;
    this.#heap[0] = last;
    for (let at = 0;;) {
      let best = at;
      for (const child of [2 * at + 1, 2 * at + 2]) {
        if (child < this.#heap.length && this.#before(child, best)) best = child;
      }
      if (best === at) return top;
      this.#swap(at, best);
      at = best;
    }
  }

  /** The most frequent pair, or null where none is left. */
  take(counts: ReadonlyMap<number, number>): number | null {
    for (let top = this.#pop(); top; top = this.#pop()) {
      const count = counts.get(top.pair) ?? 0;
      if (count === top.count) return top.pair;
      // Counts that grew were pushed again when they did; one that shrank goes back to its new place.
      if (count > 0 && count < top.count) this.push(top.pair, count);
    }
    return null;
  }
}

/** Distinct words as byte tokens, with how often each occurs. */
function countWords(
  lines: Iterable<string>,
  firstByte: readonly number[],
): { words: number[][]; counts: number[] } {
  const seen = new Map<string, number>();
  for (const line of lines) {
    for (const piece of line.match(PIECES) ?? []) seen.set(piece, (seen.get(piece) ?? 0) + 1);
  }
  const encoder = new TextEncoder();
  return {
    words: [...seen.keys()].map((word) =>
      Array.from(encoder.encode(word), (byte) => firstByte[byte])
    ),
    counts: [...seen.values()],
  };
}

function mergeIn(word: readonly number[], pair: number, id: number): number[] {
  const merged: number[] = [];
  for (let i = 0; i < word.length; i++) {
    if (i + 1 < word.length && word[i] * SHIFT + word[i + 1] === pair) {
      merged.push(id);
      i++;
    } else merged.push(word[i]);
  }
  return merged;
}

function checkOptions({ vocabSize, specialTokens = [], bosToken }: BpeOptions): void {
  const least = 256 + specialTokens.length;
  if (!Number.isSafeInteger(vocabSize) || vocabSize < least || vocabSize >= SHIFT) {
    throw new RangeError(
      `Cannot train a tokenizer of ${vocabSize} tokens: the 256 bytes and ${specialTokens.length} special tokens need at least ${least}`,
    );
  }
  if (new Set(specialTokens).size < specialTokens.length || specialTokens.includes("")) {
    throw new RangeError(
      `Cannot train a tokenizer: special tokens must differ and not be empty, found ${
        JSON.stringify(specialTokens)
      }`,
    );
  }
  if (bosToken !== undefined && !specialTokens.includes(bosToken)) {
    throw new RangeError(
      `Cannot begin texts with "${bosToken}": it is not one of the special tokens ${
        JSON.stringify(specialTokens)
      }`,
    );
  }
}

/**
 * Trains a byte-level BPE on text and returns it as the object of a Hugging Face tokenizer.json. Any text can be encoded with
 * it and comes back exactly. The merges are those of the tokenizers library: the most frequent pair first, of equally frequent
 * ones that with the lower ids. The same lines give the same tokenizer.
 *
 * Source: Sennrich et al., arXiv 1508.07909, algorithm 1; bytes and pre-tokenizer as GPT-2.
 *
 * @param lines Texts; no token reaches across two of them.
 * @throws {RangeError} if `vocabSize` is below 256 and the special tokens, or these are not distinct.
 *
 * @example
 * ```ts
 * import { Tokenizer, trainBpe } from "@nibble/nibble";
 *
 * const json = trainBpe(["low lower lowest", "new newer newest"], { vocabSize: 262 });
 * console.log(json.model.merges); // [ "w e", "l o", "n e", "s t", "Ġ lo", "Ġ ne" ]
 * const tokenizer = new Tokenizer(json);
 * console.log(tokenizer.decode(tokenizer.encode("lowest 🐋"))); // lowest 🐋
 * ```
 */
export function trainBpe(lines: Iterable<string>, options: BpeOptions): BpeTokenizerJson {
  checkOptions(options);
  const { vocabSize, specialTokens = [], bosToken } = options;
  const characters = byteCharacters();
  const tokens = [...specialTokens, ...characters.toSorted()];
  const idOf = new Map(tokens.map((token, id) => [token, id]));
  const { words, counts } = countWords(lines, characters.map((own) => idOf.get(own)!));

  const pairs = new Map<number, number>();
  const wordsWith = new Map<number, Set<number>>();
  const queue = new PairQueue();
  const note = (word: number, sign: 1 | -1, changed: Set<number>) => {
    const ids = words[word];
    for (let i = 0; i + 1 < ids.length; i++) {
      const pair = ids[i] * SHIFT + ids[i + 1];
      pairs.set(pair, (pairs.get(pair) ?? 0) + sign * counts[word]);
      changed.add(pair);
      if (sign < 0) continue; // a word stays listed under pairs that it lost: finding none in it is cheap
      const listed = wordsWith.get(pair);
      if (listed) listed.add(word);
      else wordsWith.set(pair, new Set([word]));
    }
  };
  const first = new Set<number>();
  for (let word = 0; word < words.length; word++) note(word, 1, first);
  for (const pair of first) queue.push(pair, pairs.get(pair)!);

  const merges: string[] = [];
  while (tokens.length < vocabSize) {
    const pair = queue.take(pairs);
    if (pair === null) break;
    const [left, right] = [tokens[Math.floor(pair / SHIFT)], tokens[pair % SHIFT]];
    merges.push(`${left} ${right}`);
    // Two different pairs can spell one token, which then keeps its id.
    const id = idOf.get(left + right) ?? tokens.length;
    if (id === tokens.length) idOf.set(tokens[id] = left + right, id);
    const changed = new Set<number>();
    for (const word of wordsWith.get(pair)!) {
      const merged = mergeIn(words[word], pair, id);
      if (merged.length === words[word].length) continue;
      note(word, -1, changed);
      words[word] = merged;
      note(word, 1, changed);
    }
    pairs.delete(pair);
    wordsWith.delete(pair);
    for (const other of changed) {
      const count = pairs.get(other);
      if (count === 0) pairs.delete(other);
      else if (count !== undefined) queue.push(other, count);
    }
  }
  return tokenizerJson(tokens, merges, specialTokens, bosToken);
}

function tokenizerJson(
  tokens: readonly string[],
  merges: string[],
  specialTokens: readonly string[],
  bosToken: string | undefined,
): BpeTokenizerJson {
  const id = bosToken === undefined ? -1 : specialTokens.indexOf(bosToken);
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: specialTokens.map((content, id) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: {
      type: "ByteLevel",
      add_prefix_space: false,
      trim_offsets: true,
      use_regex: true,
    },
    post_processor: id < 0 ? null : {
      type: "TemplateProcessing",
      single: [
        { SpecialToken: { id: bosToken, type_id: 0 } },
        { Sequence: { id: "A", type_id: 0 } },
      ],
      pair: [
        { SpecialToken: { id: bosToken, type_id: 0 } },
        { Sequence: { id: "A", type_id: 0 } },
        { Sequence: { id: "B", type_id: 0 } },
      ],
      special_tokens: { [bosToken!]: { id: bosToken, ids: [id], tokens: [bosToken] } },
    },
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      // Not by assignment, which would take a token named __proto__ for the prototype.
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges,
    },
  };
}
