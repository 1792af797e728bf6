/**
 * What a command makes of its options together: which were said, and what is wrong with them beside each other.
 *
 * @module
 */
import type { OptionInfo } from "./options.ts";

/** Where values come from, in words. */
export interface OptionWords {
  /** What is being run, `nibble train`. */
  readonly name: string;
  /** The beginning of a message about an option's value. */
  startOf(option: OptionInfo): string;
}

/** What a command's `check` asks of its options' reader, and tells it. */
export class OptionCheck<Key extends string = string> {
  readonly #options: ReadonlyMap<string, OptionInfo>;
  readonly #given: Readonly<Record<string, unknown>>;
  readonly #words: OptionWords;
  readonly #faults = new Set<string>();

  /** `given` are the values from the command line and the config file, without defaults. */
  constructor(
    options: readonly OptionInfo[],
    given: Readonly<Record<string, unknown>>,
    words: OptionWords,
  ) {
    this.#options = new Map(options.map((option) => [option.key, option]));
    this.#given = given;
    this.#words = words;
  }

  /** What was found wrong, in the order in which it was. */
  get faults(): readonly string[] {
    return [...this.#faults];
  }

  /**
   * Whether somebody said it, on the command line or in the config file, be it the default. A switch that is where it would be
   * anyway says nothing.
   */
  said(key: Key): boolean {
    const { kind, default: usual = false } = this.#of(key);
    const value = this.#given[key];
    return value !== undefined && (kind !== "boolean" || value !== usual);
  }

  /** The flag of the first of some options that was said, or null. */
  firstSaid(keys: readonly Key[]): string | null {
    const first = keys.find((key) => this.said(key));
    return first === undefined ? null : this.#of(first).flag;
  }

  /** Notes what is wrong with an option's value beside the others. */
  refuse(key: Key, message: string): void {
    this.#faults.add(`${this.#words.startOf(this.#of(key))}: ${message}`);
  }

  /** Refuses those of some options that were said. */
  refuseSaid(keys: readonly Key[], message: string): void {
    for (const key of keys) if (this.said(key)) this.refuse(key, message);
  }

  /** Notes that an option is missing which only some runs must have. */
  lacks(key: Key): void {
    this.#faults.add(missingWords(this.#words.name, this.#of(key), this.#of(key).flag));
  }

  /** Notes what is wrong with the options as a whole. */
  fault(message: string): void {
    this.#faults.add(`Cannot run ${this.#words.name}: ${message}`);
  }

  #of(key: string): OptionInfo {
    const option = this.#options.get(key);
    if (!option) throw new TypeError(`Cannot check option "${key}": ${this.#words.name} has none`);
    return option;
  }
}

/** That an option is missing, and what it is. */
export function missingWords(name: string, option: OptionInfo, label: string): string {
  const what = option.description === "" ? option.wanted : option.description;
  return `Cannot run ${name}: ${label} is missing (${what})`;
}
