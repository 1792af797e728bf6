/**
 * `deno task test`: the tests in tests/, every example in the documentation comments, and the examples of README.md, in child
 * processes. Ends in a line `N passed, N failed`; the exit code is 1 if anything failed.
 *
 * `deno task test -- tests/core kernels/linear/matmul.ts` runs only the tests and examples in these paths. Flags of `deno test`
 * go behind the paths, such as `--filter` or `--no-check`.
 *
 * @module
 */
// deno-lint-ignore-file no-console
import { readReport, type Tally } from "./report.ts";

/** What may hold documentation examples, besides mod.ts. */
const DOCUMENTED = ["core", "kernels", "train", "bench"];

/** Flags of `deno test` whose value may stand apart. */
const VALUED = new Set(["--filter", "--reporter", "--seed"]);

const ROOT = new URL("../", import.meta.url);

/** One child process: what it runs, and with which flags. */
interface Part {
  readonly name: string;
  readonly flags: readonly string[];
  readonly paths: readonly string[];
}

function exists(path: string): boolean {
  try {
    Deno.statSync(new URL(path, ROOT));
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/** The files under a folder that end so. */
function files(folder: string, ending: string): string[] {
  if (!exists(folder)) return [];
  const found: string[] = [];
  for (const entry of Deno.readDirSync(new URL(folder, ROOT))) {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory) found.push(...files(path, ending));
    else if (entry.name.endsWith(ending)) found.push(path);
  }
  return found.sort();
}

/** Those with an example: a file without one costs `deno test --doc` its analysis all the same. */
function withExamples(paths: readonly string[]): string[] {
  return paths.filter((path) => {
    const text = Deno.readTextFileSync(new URL(path, ROOT));
    return /^(?:\s*\*\s)?\s*```(?:ts|js|typescript|javascript)\b/m.test(text);
  });
}

/** Everything that can be run, in the order in which it is: what is quick to fail comes first. */
function allParts(): Part[] {
  const sources = [
    ...["mod.ts"].filter(exists),
    ...DOCUMENTED.flatMap((folder) => files(folder, ".ts")),
  ];
  const tests = files("tests", "_test.ts");
  // Files run at the same time in one process: most of it is shader compilation, which takes one core per file. Those that measure
  // the process's memory must be alone in it.
  const measuring = new Set(
    tests.filter((path) => Deno.readTextFileSync(new URL(path, ROOT)).includes("/peak_memory.ts")),
  );
  return [
    {
      name: "documentation examples",
      flags: ["--doc", "--parallel"],
      paths: withExamples(sources),
    },
    {
      name: "README examples",
      flags: ["--doc"],
      paths: withExamples(["README.md"].filter(exists)),
    },
    { name: "tests of memory", flags: [], paths: [...measuring] },
    { name: "tests", flags: ["--parallel"], paths: tests.filter((path) => !measuring.has(path)) },
  ];
}

/** Splits the arguments into paths and flags for `deno test`. */
function readArguments(args: readonly string[]): { paths: string[]; flags: string[] } {
  const paths: string[] = [];
  const flags: string[] = [];
  const rest = args.filter((arg) => arg !== "--");
  for (let i = 0; i < rest.length; i++) {
    if (!rest[i].startsWith("-")) paths.push(rest[i].replace(/^\.\//, "").replace(/\/+$/, ""));
    else flags.push(rest[i], ...VALUED.has(rest[i]) && i + 1 < rest.length ? [rest[++i]] : []);
  }
  return { paths, flags };
}

/** Runs a part with its output shown as it comes, and counts from its JUnit report. */
async function runPart({ name, flags, paths }: Part, extra: readonly string[]): Promise<Tally> {
  console.log(`\n== ${name}: ${paths.length} files ==`);
  const report = await Deno.makeTempFile({ prefix: "nibble-junit-", suffix: ".xml" });
  try {
    const child = new Deno.Command(Deno.execPath(), {
      args: ["test", "-A", ...flags, ...extra, `--junit-path=${report}`, ...paths],
      cwd: ROOT,
      // Without the directory, a process that has opened an adapter may abort at exit.
      env: { XDG_RUNTIME_DIR: Deno.env.get("XDG_RUNTIME_DIR") || "/tmp" },
      stdin: "null",
    }).spawn();
    const { code, signal } = await child.status;
    const { tally, fault } = readReport(await Deno.readTextFile(report), code);
    if (fault) console.log(`${name}: ${signal ? `ended by ${signal}; ` : ""}${fault}`);
    return tally;
  } finally {
    await Deno.remove(report);
  }
}

async function main(args: readonly string[]): Promise<number> {
  const { paths: wanted, flags } = readArguments(args);
  const total = { passed: 0, failed: 0 };
  const isWanted = (path: string) =>
    wanted.length === 0 || wanted.some((own) => path === own || path.startsWith(`${own}/`));
  const parts = allParts()
    .map((part) => ({ ...part, paths: part.paths.filter(isWanted) }))
    .filter((part) => part.paths.length > 0);
  for (const part of parts) {
    const { passed, failed } = await runPart(part, flags);
    total.passed += passed;
    total.failed += failed;
  }
  if (parts.length === 0) {
    console.log(`Cannot find tests or examples in ${wanted.join(", ") || "this checkout"}`);
    total.failed = 1;
  }
  console.log(`\n${total.passed} passed, ${total.failed} failed`);
  return total.failed > 0 ? 1 : 0;
}

if (import.meta.main) Deno.exit(await main(Deno.args));
