/**
 * One option set, three faces: a zod object becomes commander flags, the keys of a config file, and a JSON schema.
 * Everything is derived from zod's own JSON schema of the object, so what a flag takes and what the published schema says cannot
 * differ.
 *
 * @module
 */
import { type Command, Option } from "commander";
import { z } from "zod";

/** What an option may say about itself in `.meta()`, beside zod's type, checks and default. */
export interface OptionMeta {
  /** One line of help. */
  description: string;
  /** What stands for the value in help, such as `FILE`; by default it follows from the type. */
  placeholder?: string;
  /** A heading that the flag stands under in help. */
  group?: string;
  /** Of a text: its value where the flag stands alone. */
  bare?: string;
  /** Other words that people type for this flag; an unknown flag of that name is answered with this one. */
  aka?: readonly string[];
}

/** What options give once they were checked. */
export type ChoiceOf<Options extends z.ZodRawShape> = z.output<z.ZodObject<Options>>;

/** The types of value that a flag can carry: choices are texts or numbers out of a list, sets are lists of lists. */
export type OptionKind = "boolean" | "integer" | "number" | "text" | "choice" | "list" | "sets";

/** One option, as flags, config files and help see it. */
export interface OptionInfo {
  /** The key in a config file, `doubleQuant`. */
  readonly key: string;
  /** The flag, `--double-quant`. */
  readonly flag: string;
  readonly kind: OptionKind;
  /** What a value must be, in words: `a whole number ≥ 1`. */
  readonly wanted: string;
  readonly required: boolean;
  readonly default: unknown;
  /** Of a choice: what there is to choose from. Of a list: what its elements may be, if they are choices. */
  readonly choices: readonly (string | number)[];
  readonly description: string;
  readonly placeholder: string;
  readonly group: string | undefined;
  readonly bare: string | undefined;
  readonly aka: readonly string[];
  /** Of a list: whether its elements are numbers. */
  readonly numeric: boolean;
}

/** The flags that every command has; an option may not take their names. */
export const SHARED_FLAGS: readonly string[] = ["--config", "--schema", "--help"];

/** Names separated by commas, `--target-modules q_proj,v_proj`; in a config file an array of strings. */
export function textList(): z.ZodArray<z.ZodString> {
  return z.array(z.string().min(1)).min(1);
}

/** Whole numbers separated by commas, `--ranks 1,2,4`; in a config file an array. */
export function integerList(min: number): z.ZodArray<z.ZodInt> {
  return z.array(z.int().min(min)).min(1);
}

/** Sets separated by semicolons, `--modules "q_proj;q_proj,v_proj"`; in a config file an array of arrays. */
export function textSets(): z.ZodArray<z.ZodArray<z.ZodString>> {
  return z.array(textList()).min(1);
}

/** `--json` as a switch: one JSON object on stdout, and nothing else there. */
export function jsonSwitch(): z.ZodDefault<z.ZodBoolean> {
  const description = "print one JSON object to stdout, and nothing else there";
  return z.boolean().default(false).meta({ description });
}

/** `--json FILE`: the result also goes to a file. */
export function jsonFile(): z.ZodOptional<z.ZodString> {
  return z.string().min(1).optional()
    .meta({ description: "also write the result to this file", placeholder: "FILE" });
}

/** `--json` alone, or `--json -`: nothing but JSON on stdout; `--json FILE`: the result also goes to a file. */
export function jsonOutput(): z.ZodOptional<z.ZodString> {
  return z.string().min(1).optional().meta({
    description: "print JSON to stdout, and nothing else there; or also write it to a file",
    placeholder: "FILE",
    bare: "-",
  });
}

/** `doubleQuant` as `--double-quant`. */
export function flagOf(key: string): string {
  return `--${key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

/** `--packing` as `--no-packing`. */
export function noFlagOf(flag: string): string {
  return flag.replace("--", "--no-");
}

/** The part of zod's JSON schemas that is read here. */
interface Schema extends Partial<OptionMeta> {
  type?: string;
  enum?: (string | number)[];
  items?: Schema;
  default?: unknown;
  minimum?: number;
  exclusiveMinimum?: number;
  maximum?: number;
  exclusiveMaximum?: number;
  properties?: Record<string, Schema>;
  required?: string[];
}

function schemaOf(options: z.ZodObject): Schema {
  return z.toJSONSchema(options, { io: "input" }) as Schema;
}

function bounds(schema: Schema): string {
  const safe = (bound: number | undefined) =>
    bound !== undefined && Math.abs(bound) < Number.MAX_SAFE_INTEGER;
  const { minimum, exclusiveMinimum, maximum, exclusiveMaximum } = schema;
  const low = exclusiveMinimum !== undefined
    ? ` > ${exclusiveMinimum}`
    : safe(minimum)
    ? ` ≥ ${minimum}`
    : "";
  const high = exclusiveMaximum !== undefined
    ? ` < ${exclusiveMaximum}`
    : safe(maximum)
    ? ` ≤ ${maximum}`
    : "";
  return low && high ? `${low} and${high}` : low + high;
}

function kindOf(key: string, schema: Schema): OptionKind {
  if (schema.enum) return "choice";
  if (schema.type === "string") return "text";
  if (schema.type === "boolean" || schema.type === "integer" || schema.type === "number") {
    return schema.type;
  }
  if (schema.type === "array") {
    const item = schema.items?.type;
    if (item === "string" || item === "integer" || item === "number") return "list";
    if (item === "array" && schema.items?.items?.type === "string") return "sets";
  }
  throw new TypeError(
    `Cannot make a flag of option "${key}": its type is ${
      JSON.stringify(schema.type ?? schema)
    }, ` +
      `wanted a boolean, number, string, enum, list, or list of lists of strings`,
  );
}

function wantedOf(kind: OptionKind, schema: Schema): string {
  const item = schema.items;
  switch (kind) {
    case "boolean":
      return "true or false";
    case "integer":
      return `a whole number${bounds(schema)}`;
    case "number":
      return `a number${bounds(schema)}`;
    case "text":
      return "a text";
    case "choice":
      return `one of ${schema.enum!.join(", ")}`;
    case "list":
      if (item?.enum) return `some of ${item.enum.join(", ")}, separated by commas`;
      if (item?.type === "string") return "names separated by commas";
      return `${item?.type === "integer" ? "whole numbers" : "numbers"}${
        bounds(item!)
      } separated by commas`;
    case "sets":
      return "names separated by commas, and sets of them by semicolons";
  }
}

const PLACEHOLDERS: Record<OptionKind, string> = {
  boolean: "",
  integer: "N",
  number: "X",
  text: "TEXT",
  choice: "CHOICE",
  list: "A,B",
  sets: "A;A,B",
};

/** The options of a zod object, in its order. */
export function describeOptions(options: z.ZodObject): OptionInfo[] {
  const whole = schemaOf(options);
  return Object.entries(whole.properties ?? {}).map(([key, schema]) => {
    const kind = kindOf(key, schema);
    const flag = flagOf(key);
    if (SHARED_FLAGS.includes(flag)) {
      throw new TypeError(`Cannot make a flag of option "${key}": every command has ${flag}`);
    }
    return {
      key,
      flag,
      kind,
      wanted: wantedOf(kind, schema),
      required: whole.required?.includes(key) ?? false,
      default: schema.default,
      choices: schema.enum ?? schema.items?.enum ?? [],
      description: schema.description ?? "",
      placeholder: schema.placeholder ?? PLACEHOLDERS[kind],
      group: schema.group,
      bare: schema.bare,
      aka: schema.aka ?? [],
      numeric: schema.items?.type === "integer" || schema.items?.type === "number",
    };
  });
}

/** The JSON schema that `nibble COMMAND --schema` prints: what an editor needs to check and complete a config file. */
export function publishedSchema(title: string, options: z.ZodObject): Record<string, unknown> {
  const schema = z.toJSONSchema(options, {
    io: "input",
    override: ({ jsonSchema }) => {
      for (const own of ["placeholder", "group", "bare", "aka"]) delete jsonSchema[own];
    },
  });
  // What a config file lacks may come from a flag, so nothing is required of the file itself.
  const { required: _, properties, ...rest } = schema;
  return { title, ...rest, properties: { $schema: { type: "string" }, ...properties } };
}

/** A default as help shows it, in the words a flag takes; empty where there is nothing to show. */
function showDefault({ kind, default: value }: OptionInfo): string {
  if (value === undefined || kind === "boolean") return "";
  if (kind === "sets") return (value as string[][]).map((set) => set.join(",")).join(";");
  return String(value);
}

/** Adds a flag for each option to a commander command. A boolean also gets its `--no-` twin, to undo a config file. */
export function addFlags(command: Command, options: readonly OptionInfo[]): void {
  for (const option of options) {
    const { kind, flag, choices } = option;
    const notes = [];
    if (choices.length > 0) notes.push(`choices: ${choices.join(", ")}`);
    const shown = showDefault(option);
    if (shown !== "") notes.push(`default: ${shown}`);
    if (option.bare !== undefined && option.bare !== "-") notes.push(`alone: ${option.bare}`);
    if (option.required) notes.push("required");
    const text = [option.description, notes.length > 0 ? `(${notes.join("; ")})` : ""]
      .filter(Boolean).join(" ");
    if (kind !== "boolean") {
      const { placeholder, bare } = option;
      const value = bare === undefined ? `<${placeholder}>` : `[${placeholder}]`;
      const flagged = new Option(`${flag} ${value}`, text);
      command.addOption(grouped(bare === undefined ? flagged : flagged.preset(bare), option));
      continue;
    }
    const on = option.default === true;
    const twin = noFlagOf(flag);
    command.addOption(grouped(new Option(flag, text).hideHelp(on), option));
    // A commander option that begins with --no- sets its default to true, so only flags given on the line are taken later.
    command.addOption(grouped(new Option(twin, on ? `not: ${text}` : "").hideHelp(!on), option));
  }
}

function grouped(option: Option, { group }: OptionInfo): Option {
  return group === undefined ? option : option.helpGroup(`${group}:`);
}

/** The value in a flag's text, by the option's kind. Text that is no such value stays as it is, for the check to report. */
export function readText(option: OptionInfo, text: string): unknown {
  const number = (part: string) =>
    part.trim() === "" || Number.isNaN(Number(part)) ? part : Number(part);
  const parts = (list: string) => list.split(",").map((part) => part.trim());
  switch (option.kind) {
    case "integer":
    case "number":
      return number(text);
    case "choice":
      return option.choices.find((choice) => String(choice) === text) ?? text;
    case "list":
      return option.numeric ? parts(text).map(number) : parts(text);
    case "sets":
      return text.split(";").map(parts);
    default:
      return text;
  }
}
