/**
 * What the library says, in the words of the command line.
 *
 * @module
 */
import { noFlagOf, type OptionInfo } from "./options.ts";

/** Not inside of a longer word, a path, or a quoted name. */
const ALONE = { before: '(?<![\\w"./-])', after: '(?![\\w"/-])' };

/** A value beside its key: `quantize: "nf4"`. */
const VALUE = '(?:"([^"]*)"|(true|false|\\d[\\d.]*))';

/** Behind these a key that is also an English word is meant as an option: alone, and with a value. */
const MEANT = { alone: "without |[Ll]eave ", valued: "as |with |and |or |pass |take |use " };

/** `doubleQuant` is no word of English; `quantize` is. */
const isWord = (key: string) => !/[A-Z]/.test(key);

function flagWith({ flag, kind }: OptionInfo, value: string): string {
  if (kind !== "boolean") return `${flag} ${value}`;
  return value === "false" ? noFlagOf(flag) : flag;
}

/**
 * A message in which options that are named as the library has them, `blockSize` or `quantize: "nf4"`, are named as a user types
 * them, `--block-size` and `--quantize nf4`. Names in quotes and paths stay.
 */
export function inFlags(message: string, options: readonly OptionInfo[]): string {
  const { before, after } = ALONE;
  let text = message;
  for (const option of options) {
    const { key, flag } = option;
    const named = (behind: string) => isWord(key) ? `\\b(${behind})${key}` : `()${before}${key}`;
    text = text.replace(
      new RegExp(`${named(MEANT.valued)}: ${VALUE}`, "g"),
      (_, start, quoted, plain) => start + flagWith(option, quoted ?? plain),
    );
    text = text.replace(
      new RegExp(named(MEANT.alone) + after, "g"),
      (_, start) => start + flag,
    );
  }
  return text;
}

/** The same in an error and its causes. */
export function nameFlags(error: unknown, options: readonly OptionInfo[]): void {
  let own = error;
  for (let depth = 0; own instanceof Error && depth < 5; depth++) {
    // What the runtime throws has a message that cannot be set, and names no options.
    if (!(own instanceof DOMException)) own.message = inFlags(own.message, options);
    own = own.cause;
  }
}
