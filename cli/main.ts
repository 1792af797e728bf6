/**
 * Finds the command, reads its arguments, runs it, and turns whatever goes wrong into one message and an exit code.
 *
 * @module
 */
import { Command as Parser } from "commander";
import { type CommandEntry, COMMANDS } from "./commands.ts";
import { printError, printText } from "./output.ts";
import { didYouMean } from "./suggest.ts";

/** What a shell sees when a command was stopped by Ctrl-C: 128 and the signal's number. */
const INTERRUPTED = 130;

/** Runs nibble with these arguments, and gives the exit code. Tests pass commands of their own. */
export async function main(
  args: readonly string[],
  commands: readonly CommandEntry[] = COMMANDS,
): Promise<number> {
  Deno.addSignalListener("SIGINT", stop);
  globalThis.addEventListener("unhandledrejection", (event) => {
    event.preventDefault();
    Deno.exit(report(event.reason, 1));
  });
  let run: () => Promise<void> | void;
  try {
    run = await prepare(args, commands);
  } catch (error) {
    return report(error, 2);
  }
  try {
    await run();
    return 0;
  } catch (error) {
    return report(error, 1);
  } finally {
    Deno.removeSignalListener("SIGINT", stop);
  }
}

function stop(): never {
  // A terminal may stand in the middle of a progress bar.
  printError(`${Deno.stderr.isTerminal() ? "\n" : ""}Stopped by Ctrl-C`);
  Deno.exit(INTERRUPTED);
}

/** Reads the whole command line, and does nothing yet. */
async function prepare(
  args: readonly string[],
  commands: readonly CommandEntry[],
): Promise<() => Promise<void> | void> {
  const [name, ...rest] = joinWords(
    args[0] === "help" ? [...args.slice(1), "--help"] : args,
    commands,
  );
  if (name === undefined || name === "--help" || name === "-h") {
    return () => printText(overview(commands));
  }
  if (name === "--version" || name === "-V") return printVersion;
  const names = commands.map((command) => command.name);
  if (name.startsWith("-")) {
    const advice = didYouMean(name, ["--help", "--version"], ". A command comes first");
    throw new TypeError(`Unknown flag ${name}${advice}`);
  }
  const second = names.filter((own) => own.startsWith(`${name} `))
    .map((own) => own.slice(name.length + 1));
  if (second.length > 0 && rest.length > 0 && !rest[0].startsWith("-")) {
    const advice = didYouMean(rest[0], second, `. There are ${second.join(", ")}`);
    throw new TypeError(`Unknown command ${name} ${rest[0]}${advice}`);
  }
  const entry = commands.find((command) => command.name === name);
  if (!entry) {
    throw new TypeError(
      `Unknown command ${name}${didYouMean(name, names, `. There are ${names.join(", ")}`)}`,
    );
  }
  return await prepareCommand(entry, rest);
}

/** The arguments with a name of two words, such as `quantize compare`, as one. */
function joinWords(args: readonly string[], commands: readonly CommandEntry[]): readonly string[] {
  const two = args.slice(0, 2).join(" ");
  return commands.some(({ name }) => name === two) ? [two, ...args.slice(2)] : args;
}

async function prepareCommand(
  entry: CommandEntry,
  args: readonly string[],
): Promise<() => Promise<void> | void> {
  const [{ readArguments }, { default: command }] = await Promise.all([
    import("./command.ts"),
    entry.load(),
  ]);
  const reading = readArguments(command, args);
  return reading.kind === "run" ? reading.run : () => printText(reading.text);
}

function overview(commands: readonly CommandEntry[]): string {
  const parser = new Parser("nibble")
    .usage("COMMAND [options]")
    .description("Quantizes and fine-tunes language models on WebGPU")
    .helpCommand(false)
    .option("--version", "show the version");
  for (const { name, summary } of commands) parser.addCommand(new Parser(name).summary(summary));
  parser.configureHelp({ subcommandTerm: (command) => command.name() });
  parser.helpOption("-h, --help", "show this help; after a command, that command's");
  return parser.helpInformation();
}

async function printVersion(): Promise<void> {
  const { default: project } = await import("../deno.json", { with: { type: "json" } });
  printText(`nibble ${project.version} (Deno ${Deno.version.deno})\n`);
}

/** Prints what went wrong, with the message of each cause; the stack too if NIBBLE_TRACE=1. */
function report(error: unknown, code: number): number {
  let said = messageOf(error);
  printError(`error: ${said}`);
  let cause = error instanceof Error ? error.cause : undefined;
  for (let depth = 0; cause !== undefined && depth < 5; depth++) {
    const message = messageOf(cause);
    // A message often repeats its cause already, or says it in better words than the system has.
    if (!said.includes(message) && !isAboutPath(cause)) printError(`  because: ${message}`);
    said += message;
    cause = cause instanceof Error ? cause.cause : undefined;
  }
  if (Deno.env.get("NIBBLE_TRACE") === "1" && error instanceof Error) printError(error.stack ?? "");
  return code;
}

/** Whether it is the system's error about a path that is not there, or not of that kind: what nibble throws names it. */
function isAboutPath(error: unknown): boolean {
  const { NotFound, IsADirectory, NotADirectory } = Deno.errors;
  return [NotFound, IsADirectory, NotADirectory].some((own) => error instanceof own);
}

/** What the runtime says where an array has no room. */
const NO_ROOM = /^(Array buffer allocation failed|Invalid (typed )?array (buffer )?length.*)$/;

function messageOf(error: unknown): string {
  const text = error instanceof Error ? error.message || error.name : String(error);
  return NO_ROOM.test(text)
    ? `Cannot go on: there is no memory for one of the arrays (${text}); choose smaller numbers`
    : text;
}
