/**
 * The batches of a training run, in an order that follows from the seed alone.
 *
 * @module
 */
import { Random } from "../../core/random.ts";
import type { Tokenizer } from "../files/tokenizer.ts";
import { tokenizeChat } from "./chat.ts";
import type { Conversation } from "./chat_template.ts";
import { type Example, type Sequence, tokenizeExamples, tokenizeText } from "./dataset.ts";
import { pack, type PackedBatch, type PackOptions } from "./packing.ts";

/** What can be trained on: examples, conversations, plain texts, or sequences that are tokenized already. */
export type Dataset =
  | readonly Example[]
  | readonly Conversation[]
  | readonly string[]
  | readonly Sequence[];

function isSequences(dataset: Dataset): dataset is readonly Sequence[] {
  const [first] = dataset;
  return typeof first === "object" && "ids" in first;
}

function isConversations(dataset: Dataset): dataset is readonly Conversation[] {
  const [first] = dataset;
  return typeof first === "object" && "messages" in first;
}

function isTexts(dataset: Dataset): dataset is readonly string[] {
  return typeof dataset[0] === "string";
}

/**
 * A data set as sequences.
 *
 * @throws {RangeError} if it is empty, or something in it is longer than `maxLength`
 * @throws {TypeError} if it must be tokenized, and there is no tokenizer, or no chat template for conversations
 */
export function toSequences(
  dataset: Dataset,
  tokenizer: Tokenizer | null,
  maxLength: number,
): readonly Sequence[] {
  if (dataset.length === 0) {
    throw new RangeError("Cannot train on an empty data set: wanted at least one example");
  }
  if (isSequences(dataset)) return dataset;
  if (!tokenizer) {
    throw new TypeError(
      "Cannot tokenize the data set: the model has no tokenizer. Put tokenizer.json into its folder, or pass sequences",
    );
  }
  if (isConversations(dataset)) return tokenizeChat(tokenizer, dataset, { maxLength });
  return isTexts(dataset)
    ? tokenizeText(tokenizer, dataset, { maxLength })
    : tokenizeExamples(tokenizer, dataset, { maxLength });
}

/** The random stream of the first epoch's order; each epoch takes the next. */
const ORDER_STREAM = 1000;

/** The batches of one epoch: the sequences in a new random order, packed. */
export function epochBatches(
  sequences: readonly Sequence[],
  options: PackOptions & { readonly seed: number; readonly epoch: number },
): PackedBatch[] {
  const { seed, epoch } = options;
  const order = new Random(seed, ORDER_STREAM + epoch).permutation(sequences.length);
  return pack(Array.from(order, (index) => sequences[index]), options);
}
