/**
 * From what was given on the command line and in a config file to checked options: flags override the file, the file overrides
 * the defaults.
 *
 * @module
 */
import type { z } from "zod";
import { missingWords, OptionCheck } from "./option_check.ts";
import { flagOf, type OptionInfo, readText, SHARED_FLAGS } from "./options.ts";
import { didYouMean, nearest } from "./suggest.ts";

/** Reads a config file and checks its keys. `$schema`, which editors look for, is left out of the answer. */
export function readConfig(
  path: string,
  options: readonly OptionInfo[],
): Record<string, unknown> {
  let text: string;
  try {
    text = Deno.readTextFileSync(path);
  } catch (error) {
    const found = error instanceof Deno.errors.NotFound
      ? "there is no such file"
      : error instanceof Deno.errors.IsADirectory
      ? "it is a folder, wanted a JSON file"
      : (error as Error).message;
    throw new TypeError(`Cannot read config file ${path}: ${found}`);
  }
  let value: unknown;
  try {
    value = JSON.parse(text.replace(/^\uFEFF/, ""));
  } catch (error) {
    throw new SyntaxError(
      `Cannot read config file ${path}: it is not valid JSON (${(error as Error).message})`,
    );
  }
  if (value === null || typeof value !== "object" || Array.isArray(value)) {
    throw new TypeError(
      `Cannot read config file ${path}: found ${show(value)}, wanted an object of options`,
    );
  }
  const { $schema: _, ...config } = value as Record<string, unknown>;
  const keys = options.map(({ key }) => key);
  const unknown = Object.keys(config).filter((key) => !keys.includes(key));
  if (unknown.length > 0) {
    const meantBy = (key: string) => {
      const flag = flagOf(key.replaceAll("_", "-")).slice(2);
      return options.find(({ aka }) => aka.includes(flag))?.key ?? key;
    };
    throw new TypeError(
      unknown.map((key) =>
        `Cannot read config file ${path}: unknown key "${key}"` +
        didYouMean(meantBy(key), keys, `. It knows ${keys.join(", ")}`)
      ).join("\n"),
    );
  }
  return config;
}

/** The values of flags and positional arguments, each from its text. */
export function readFlags(
  given: Readonly<Record<string, unknown>>,
  options: readonly OptionInfo[],
): Record<string, unknown> {
  const flags = new Set([...options.map(({ flag }) => flag), ...SHARED_FLAGS]);
  const values: Record<string, unknown> = {};
  for (const option of options) {
    const text = given[option.key];
    if (text === undefined) continue;
    // Commander takes whatever follows as the value: a flag there means that the value was forgotten.
    if (typeof text === "string" && flags.has(text.split("=")[0])) {
      throw new TypeError(
        `Cannot read option ${option.flag}: found the flag ${text} in place of its value, ` +
          `wanted ${option.wanted}`,
      );
    }
    values[option.key] = typeof text === "string" ? readText(option, text) : text;
  }
  return values;
}

/** What `checkValues` needs to say where a wrong value came from. */
export interface ValueSources {
  /** What is being run, `nibble train`. */
  readonly name: string;
  /** The texts of flags and positional arguments, by key. */
  readonly given: Readonly<Record<string, unknown>>;
  /** The config file's path and values, if there is one. */
  readonly configPath?: string;
  readonly config?: Readonly<Record<string, unknown>>;
  /** Keys that stand on the command line without a flag. */
  readonly positionals: readonly string[];
}

/** Merges flags over config over defaults, and checks the result; `check` is the command's own. */
export function checkValues<S extends z.ZodObject>(
  schema: S,
  options: readonly OptionInfo[],
  sources: ValueSources,
  check?: (values: z.output<S>, check: OptionCheck) => void,
): z.output<S> {
  const given = { ...sources.config, ...readFlags(sources.given, options) };
  const result = schema.safeParse(given);
  if (!result.success) {
    const { issues } = result.error;
    const text = linesOf(issues.map((issue) => word(issue, options, sources)));
    throw issues.some(({ code }) => code === "invalid_type")
      ? new TypeError(text)
      : new RangeError(text);
  }
  const own = new OptionCheck(options, given, {
    name: sources.name,
    startOf: (option) => startOf(option, sources),
  });
  check?.(result.data, own);
  if (own.faults.length > 0) throw new RangeError(linesOf(own.faults));
  return result.data;
}

/** Each message once, a line each. */
function linesOf(messages: readonly string[]): string {
  return [...new Set(messages)].join("\n");
}

type Issue = z.core.$ZodIssue;

/** Whether a value stands in the config file, and no flag overrides it. */
function isFromFile({ key }: OptionInfo, { given, config }: ValueSources): boolean {
  return given[key] === undefined && config !== undefined && key in config;
}

/** `Cannot read option --r`, or where else the value stands. */
function startOf(option: OptionInfo, sources: ValueSources): string {
  if (isFromFile(option, sources)) return `Cannot read "${option.key}" in ${sources.configPath}`;
  return sources.positionals.includes(option.key)
    ? `Cannot read argument ${option.placeholder}`
    : `Cannot read option ${option.flag}`;
}

/** One wrong value in words: where it stands, what was found, what was wanted. */
function word(issue: Issue, options: readonly OptionInfo[], sources: ValueSources): string {
  const option = options.find(({ key }) => key === issue.path[0]);
  if (!option) return `Cannot run ${sources.name}: ${issue.message}`;
  const { key, flag, wanted } = option;
  const isGiven = sources.given[key] !== undefined || isFromFile(option, sources);
  if (!isGiven && issue.code === "invalid_type") {
    const label = sources.positionals.includes(key) ? option.placeholder : flag;
    return missingWords(sources.name, option, label);
  }
  const start = startOf(option, sources);
  // A check of the option's own says in its message what it wants.
  if (issue.code === "custom") return `${start}: ${issue.message}`;
  const whole = sources.given[key] ?? sources.config?.[key];
  const found = elementOf(option, whole, issue.path[1]);
  // Of choices, the nearest is more help than all of them.
  const near = option.choices.length > 0 && typeof found === "string"
    ? nearest(found, option.choices.map(String))
    : null;
  const advice = near === null ? "" : `; did you mean ${near}?`;
  return `${start}: found ${show(found)}, wanted ${
    wanted === "a text" && found === "" ? "a text that is not empty" : wanted
  }${advice}`;
}

/** Of a list of choices, the element that is wrong. */
function elementOf(option: OptionInfo, whole: unknown, index: PropertyKey | undefined): unknown {
  if (option.kind !== "list" || option.choices.length === 0 || typeof index !== "number") {
    return whole;
  }
  const list = typeof whole === "string" ? readText(option, whole) : whole;
  return Array.isArray(list) && list.length > 1 ? list[index] : whole;
}

function show(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}
