/**
 * What a command is, and how its arguments are read.
 *
 * @module
 */
import { Command as Parser, CommanderError } from "commander";
import type { z } from "zod";
import { nameFlags } from "./flag_words.ts";
import {
  addFlags,
  describeOptions,
  noFlagOf,
  type OptionInfo,
  publishedSchema,
  SHARED_FLAGS,
} from "./options.ts";
import type { OptionCheck } from "./option_check.ts";
import { didYouMean } from "./suggest.ts";
import { checkValues, readConfig } from "./values.ts";

/** A command: its help, its options, and what it does with them. */
export interface Command {
  readonly name: string;
  readonly summary: string;
  /** Command lines worth copying, each with what it does. */
  readonly examples: readonly (readonly [line: string, what: string])[];
  /** Keys of options that are given without a flag, in order. A list takes all that is left. */
  readonly positionals: readonly string[];
  readonly options: z.ZodObject;
  /** Notes which options do not go together, once each has been checked. */
  // deno-lint-ignore no-explicit-any
  check?(options: any, check: OptionCheck): void;
  /** Runs with options that were checked. What it throws is shown as one message. */
  // deno-lint-ignore no-explicit-any
  run(options: any): Promise<void> | void;
}

/** A command as it is written: `check` and `run` get the options with the types that the zod object gives them. */
export interface CommandDefinition<S extends z.ZodObject> {
  name: string;
  summary: string;
  examples: readonly (readonly [line: string, what: string])[];
  positionals?: readonly (keyof z.output<S> & string)[];
  options: S;
  check?(options: z.output<S>, check: OptionCheck<keyof z.output<S> & string>): void;
  run(options: z.output<S>): Promise<void> | void;
}

/** Makes a command of its definition, with `check` and `run` typed by `options`. */
export function defineCommand<S extends z.ZodObject>(definition: CommandDefinition<S>): Command {
  return { positionals: [], ...definition };
}

/** A way of reading a command line: help or a schema to print, or a command that is ready to run. */
export type Reading =
  | { readonly kind: "print"; readonly text: string }
  | { readonly kind: "run"; readonly run: () => Promise<void> | void };

/** Reads a command's arguments. Throws what is wrong with them; nothing has run by then. */
export function readArguments(command: Command, args: readonly string[]): Reading {
  const options = describeOptions(command.options);
  const printed: string[] = [];
  const parser = makeParser(command, options, (text) => printed.push(text));
  try {
    parser.parse(args as string[], { from: "user" });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode === 0) return { kind: "print", text: printed.join("") };
    throw wordFault(error, command, options);
  }
  const given = givenTexts(parser, command);
  const { config: configPath, schema } = parser.opts<{ config?: string; schema?: boolean }>();
  if (schema) {
    const published = publishedSchema(`nibble ${command.name}`, command.options);
    return { kind: "print", text: `${JSON.stringify(published, null, 2)}\n` };
  }
  const config = configPath === undefined ? undefined : readConfig(configPath, options);
  const values = checkValues(command.options, options, {
    name: `nibble ${command.name}`,
    given,
    configPath,
    config,
    positionals: command.positionals,
  }, (values, check) => command.check?.(values, check));
  return { kind: "run", run: () => runCommand(command, values, options) };
}

/** Runs a command. What goes wrong is said in flags, as its user typed them. */
async function runCommand(
  command: Command,
  values: unknown,
  options: readonly OptionInfo[],
): Promise<void> {
  try {
    await command.run(values);
  } catch (error) {
    nameFlags(error, options);
    throw error;
  }
}

function makeParser(
  command: Command,
  options: readonly OptionInfo[],
  print: (text: string) => void,
): Parser {
  const parser = new Parser(`nibble ${command.name}`)
    .description(command.summary)
    .exitOverride()
    .showSuggestionAfterError(false)
    .configureOutput({ writeOut: print, writeErr: () => {} })
    // The descriptions say all that there is; commander would add its own words on what stands alone.
    .configureHelp({
      showGlobalOptions: false,
      optionDescription: ({ description }) => description,
    })
    .helpOption("-h, --help", "show this help");
  const usage: string[] = [];
  for (const key of command.positionals) {
    const option = options.find((own) => own.key === key)!;
    const name = `${option.placeholder}${option.kind === "list" ? "..." : ""}`;
    usage.push(option.required ? name : `[${name}]`);
    // All are optional to the parser, since a config file may give them; the check finds what is missing.
    parser.argument(`[${name}]`, option.description);
  }
  parser.usage([...usage, "[options]"].join(" "));
  addFlags(parser, options.filter(({ key }) => !command.positionals.includes(key)));
  parser.option("--config <FILE>", "read options from a JSON file; flags override it")
    .option("--schema", "print the JSON schema of the config file, and stop");
  if (command.examples.length > 0) {
    const lines = command.examples.map(([line, what]) => `  ${line}\n      ${what}`);
    parser.addHelpText("after", `\nExamples:\n${lines.join("\n")}`);
  }
  return parser;
}

/** What stood on the command line, by option key; commander's own defaults are not given. */
function givenTexts(parser: Parser, command: Command): Record<string, unknown> {
  const given: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(parser.opts())) {
    if (parser.getOptionValueSource(key) === "cli") given[key] = value;
  }
  command.positionals.forEach((key, index) => {
    const value = parser.processedArgs[index];
    if (value === undefined || (Array.isArray(value) && value.length === 0)) return;
    given[key] = value;
  });
  return given;
}

/** Commander's complaint in nibble's words. */
function wordFault(
  fault: CommanderError,
  command: Command,
  options: readonly OptionInfo[],
): TypeError {
  const help = `. See nibble ${command.name} --help`;
  const quoted = /'([^']*)'/.exec(fault.message)?.[1] ?? "";
  if (fault.code === "commander.unknownOption") {
    const flag = quoted.split("=")[0];
    const switches = options.filter(({ kind }) => kind === "boolean");
    if (switches.some((option) => option.flag === flag || noFlagOf(option.flag) === flag)) {
      return new TypeError(`Cannot read option ${flag}: found ${quoted}, but it takes no value`);
    }
    const known = options.find(({ aka }) => aka.includes(flag.replace(/^-+/, "")));
    const isArgument = ({ key }: OptionInfo) => command.positionals.includes(key);
    const argument = options.find((option) => isArgument(option) && option.flag === flag);
    if (argument) {
      return new TypeError(
        `Unknown flag ${flag}: give it without one, as nibble ${command.name} ${argument.placeholder}`,
      );
    }
    const named = options.filter((option) => !isArgument(option));
    const flags = [...named.map((option) => option.flag), ...SHARED_FLAGS]
      .concat(switches.map((option) => noFlagOf(option.flag)));
    const advice = known ? `: did you mean ${known.flag}?` : didYouMean(flag, flags, help);
    return new TypeError(`Unknown flag ${flag}${advice}`);
  }
  if (fault.code === "commander.optionMissingArgument") {
    const flag = quoted.split(" ")[0];
    const wanted = options.find((option) => option.flag === flag)?.wanted ?? "a file";
    return new TypeError(`Cannot read option ${flag}: its value is missing, wanted ${wanted}`);
  }
  if (fault.code === "commander.excessArguments") {
    const names = command.positionals.length;
    return new TypeError(
      `Cannot run nibble ${command.name}: found more arguments than the ${names} it takes${help}`,
    );
  }
  return new TypeError(`${fault.message.replace(/^error: /, "")}${help}`);
}
