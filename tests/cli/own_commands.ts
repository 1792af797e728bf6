/** A command line with two commands for tests: one fails, one never ends. */
import { z } from "zod";
import { type Command, defineCommand } from "../../cli/command.ts";
import type { CommandEntry } from "../../cli/commands.ts";
import { main } from "../../cli/main.ts";
import { printLine } from "../../cli/print.ts";

function entry(name: string, run: () => Promise<void>): CommandEntry {
  const options = z.strictObject({});
  const command: Command = defineCommand({ name, summary: name, examples: [], options, run });
  return { name, summary: name, load: () => Promise.resolve({ default: command }) };
}

const fail = entry("fail", () => {
  const root = new Error("the matches are wet");
  throw new Error("Cannot cook: no fire", { cause: new Error("no fire", { cause: root }) });
});

const wait = entry("wait", async () => {
  printLine("begun");
  await new Promise((done) => setTimeout(done, 1e9));
});

Deno.exit(await main(Deno.args, [fail, wait]));
