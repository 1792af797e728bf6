import { COMMANDS } from "../../cli/commands.ts";
import { describeOptions } from "../../cli/options.ts";
import { assert, assertEquals, assertMatch } from "../assert.ts";
import { nibble, spawnNibble } from "./spawn.ts";

/** What a wrong command line gives: exit code 2, nothing on stdout, one line on stderr. */
async function assertUsageError(args: string[], line: string): Promise<void> {
  const { code, stdout, stderr } = await nibble(...args);
  assertEquals([code, stdout], [2, ""], stderr);
  assertEquals(stderr, `error: ${line}\n`);
}

Deno.test("nibble --help lists the commands, and so does nibble alone", async () => {
  const help = await nibble("--help");
  assertEquals([help.code, help.stderr], [0, ""]);
  for (const { name, summary } of COMMANDS) {
    assert(help.stdout.includes(`  ${name} `), name);
    assert(help.stdout.replace(/\s+/g, " ").includes(summary), summary);
  }
  assertEquals(await nibble(), help);
});

Deno.test("nibble --version names the version", async () => {
  const { code, stdout } = await nibble("--version");
  assertEquals(code, 0);
  assertMatch(stdout, /^nibble \d+\.\d+\.\d+ \(Deno /);
});

Deno.test("nibble COMMAND --help and nibble help COMMAND are the same", async () => {
  const help = await nibble("inspect", "--help");
  assertEquals([help.code, help.stderr], [0, ""]);
  assertMatch(help.stdout, /^Usage: nibble inspect \[PATH\] \[options\]/);
  assertEquals(await nibble("help", "inspect"), help);
});

Deno.test("every command says of itself what the list says, and its options make flags", async () => {
  for (const { name, summary, load } of COMMANDS) {
    const { default: command } = await load();
    assertEquals([command.name, command.summary], [name, summary]);
    for (const { key, description } of describeOptions(command.options)) {
      assert(description !== "", `${name}: option ${key} has no description`);
    }
    const keys = Object.keys(command.options.shape);
    for (const key of command.positionals) assert(keys.includes(key), `${name}: ${key}`);
  }
});

Deno.test("nibble suggests the near command", async () => {
  await assertUsageError(["inspct"], "Unknown command inspct: did you mean inspect?");
  await assertUsageError(
    ["quantize", "calibrat", "--model", "x"],
    "Unknown command quantize calibrat: did you mean calibrate?",
  );
  const { code, stderr } = await nibble("zebra");
  assertEquals(code, 2);
  assertMatch(stderr, /^error: Unknown command zebra\. There are .*inspect/);
});

Deno.test("nibble suggests the near flag", async () => {
  await assertUsageError(
    ["inspect", "x", "--adaptr", "y"],
    "Unknown flag --adaptr: did you mean --adapter?",
  );
  await assertUsageError(["--versoin"], "Unknown flag --versoin: did you mean --version?");
  await assertUsageError(
    ["generate", "--prompt", "a cat"],
    "Unknown flag --prompt: give it without one, as nibble generate PROMPT",
  );
});

Deno.test("nibble names a wrong config file, and a wrong key in it", async () => {
  const folder = await Deno.makeTempDir();
  const path = `${folder}/run.json`;
  try {
    const args = ["inspect", "--config", path];
    await assertUsageError(args, `Cannot read config file ${path}: there is no such file`);
    await Deno.writeTextFile(path, '{"pth": "model"}');
    await assertUsageError(
      args,
      `Cannot read config file ${path}: unknown key "pth": did you mean path?`,
    );
    await Deno.writeTextFile(path, '{"path": "model",}');
    const { code, stdout, stderr } = await nibble(...args);
    assertEquals([code, stdout], [2, ""]);
    assertMatch(stderr, /^error: Cannot read config file .*: it is not valid JSON \(.*\)\n$/);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("nibble shows the stack only where it is asked for", async () => {
  const { stderr } = await spawnNibble(["inspect", "/nowhere"], { NIBBLE_TRACE: "1" }).output();
  assertMatch(new TextDecoder().decode(stderr), /there is no such file[^]*\n {4}at /);
});

Deno.test("nibble shows an error with its causes, each once", async () => {
  const child = spawnNibble(["fail"], {}, "tests/cli/own_commands.ts");
  const { code, stderr } = await child.output();
  assertEquals(code, 1);
  assertEquals(
    new TextDecoder().decode(stderr),
    "error: Cannot cook: no fire\n  because: the matches are wet\n",
  );
});

Deno.test({
  name: "nibble stops by Ctrl-C with one line and exit code 130",
  ignore: Deno.build.os === "windows", // no signal can be sent to a process there
  async fn() {
    const child = spawnNibble(["wait"], {}, "tests/cli/own_commands.ts");
    const reader = child.stdout.getReader();
    await reader.read(); // it says that it has begun
    reader.releaseLock();
    child.kill("SIGINT");
    const { code, stderr } = await child.output();
    assertEquals([code, new TextDecoder().decode(stderr)], [130, "Stopped by Ctrl-C\n"]);
  },
});
