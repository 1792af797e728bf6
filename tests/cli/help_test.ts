import { COMMANDS } from "../../cli/commands.ts";
import { describeOptions, noFlagOf, SHARED_FLAGS } from "../../cli/options.ts";
import { assert, assertEquals } from "../assert.ts";
import { nibble } from "./spawn.ts";

for (const { name, summary, load } of COMMANDS) {
  Deno.test(`nibble ${name} answers --help and --schema`, async () => {
    const { default: command } = await load();
    assertEquals([command.name, command.summary], [name, summary]);
    const options = describeOptions(command.options);

    const help = await nibble(...name.split(" "), "--help");
    assertEquals([help.code, help.stderr], [0, ""]);
    assert(help.stdout.startsWith(`Usage: nibble ${name} `), help.stdout);
    const words = help.stdout.replace(/\s+/g, " ");
    assert(words.includes(summary), `the summary is not in\n${help.stdout}`);
    const flags = options.filter(({ key }) => !command.positionals.includes(key));
    for (const flag of [...flags.map((own) => own.flag), ...SHARED_FLAGS]) {
      // What is on by default is shown as the flag that turns it off.
      const isShown = [flag, noFlagOf(flag)].some((own) => words.includes(` ${own} `));
      assert(isShown, `${flag} is not in\n${help.stdout}`);
    }
    for (const [line, what] of command.examples) {
      assert(line.startsWith(`nibble ${name}`), line);
      assert(help.stdout.includes(line) && words.includes(what), line);
    }

    for (const { bare } of flags) {
      if (bare !== undefined && bare !== "-") assert(words.includes(`(alone: ${bare})`), words);
    }
    assert(!words.includes("preset"), words);

    const schema = await nibble(...name.split(" "), "--schema");
    assertEquals([schema.code, schema.stderr], [0, ""]);
    const { title, type, additionalProperties, properties } = JSON.parse(schema.stdout);
    assertEquals([title, type, additionalProperties], [`nibble ${name}`, "object", false]);
    const keys = Object.keys(properties).filter((key) => key !== "$schema");
    assertEquals(keys, options.map(({ key }) => key));
  });
}
