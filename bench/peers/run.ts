/**
 * Runs a peer on this machine, and prints its figures as `nibble bench --json` prints nibble's, with the same names and shapes:
 *
 *     deno run -A bench/peers/run.ts jax-js --sizes 1024,4096 --gpt d64,d512 > jax-js.json
 *     deno run -A bench/peers/run.ts llama.cpp > llama.json
 *     deno run -A bench/peers/run.ts transformers --filter qlora > transformers.json
 *     nibble bench --compare jax-js.json nibble.json
 *
 * npm packages are installed into a temporary folder, which is removed afterwards; Python's must be there: NIBBLE_PYTHON names a
 * Python that has them. What is missing is listed under `skipped`, with the reason.
 *
 * @module
 */
import { readFault } from "../../train/files/input.ts";
import { readChoice } from "./common.ts";
import { writeSmolLm2 } from "./write_gguf.ts";

/** A peer: a script of this folder, and what must be installed for it. */
export interface Peer {
  /** The script. */
  readonly script: string;
  /** npm packages with their versions; none for Python. */
  readonly packages?: Readonly<Record<string, string>>;
  /** Whether it reads a GGUF file. */
  readonly readsGguf?: boolean;
}

/** The peers, by name. */
export const PEERS: Readonly<Record<string, Peer>> = {
  "jax-js": { script: "peer_jax_js.ts", packages: { "@jax-js/jax": "0.1.25" } },
  "tfjs": {
    script: "peer_tfjs.ts",
    packages: { "@tensorflow/tfjs": "4.22.0", "@tensorflow/tfjs-backend-webgpu": "4.22.0" },
  },
  "llama.cpp": {
    script: "peer_llama_cpp.ts",
    packages: {
      "node-llama-cpp": "3.22.1",
      "@node-llama-cpp/linux-x64": "3.22.1",
      "@node-llama-cpp/linux-x64-vulkan": "3.22.1",
    },
    readsGguf: true,
  },
  "torch": { script: "peer_torch.py" },
  "transformers": { script: "peer_transformers.py" },
};

/** What a command printed, or why it did not run. */
interface Outcome {
  readonly fault: string | null;
  readonly stdout: string;
  /** Its exit code; null where it is not there. */
  readonly code: number | null;
}

/** What Python's argparse ends with where its arguments are wrong. */
const WRONG_ARGUMENTS = 2;

/** The line of a failed command's words that says why: Deno puts a stack behind it, Python before it. */
function reasonIn(stderr: string): string {
  const lines = stderr.trim().split("\n");
  return lines.find((line) => line.startsWith("error: ")) ?? lines.at(-1)!;
}

async function run(
  command: string,
  args: readonly string[],
  options: { cwd?: string; env?: Record<string, string> } = {},
): Promise<Outcome> {
  try {
    const { code, stdout, stderr } = await new Deno.Command(command, {
      args: [...args],
      ...options,
    }).output();
    const [out, err] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
    const fault = code === 0 ? null : `${command} ended with ${code}: ${reasonIn(err)}`;
    return { fault, stdout: out, code };
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    return { fault: `${command} is not installed`, stdout: "", code: null };
  }
}

/** A report without results. */
function skipped(name: string, reason: string): string {
  const report = { adapter: { name: "none" }, versions: {}, results: [] };
  return `${JSON.stringify({ ...report, skipped: [{ name, reason }] }, null, 2)}\n`;
}

/** Installs a peer's packages into a folder, by npm, or by Deno where there is no npm. Gives the reason if that fails. */
async function install(folder: string, packages: Record<string, string>): Promise<string | null> {
  const project = { private: true, type: "module", dependencies: packages };
  await Deno.writeTextFile(`${folder}/package.json`, JSON.stringify(project));
  const flags = ["--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund"];
  const byNpm = await run("npm", ["install", ...flags], { cwd: folder });
  if (byNpm.fault === null) return null;
  const deno = ["install", "--node-modules-dir=auto", "--no-lock"];
  return (await run(Deno.execPath(), deno, { cwd: folder })).fault && byNpm.fault;
}

async function realPath(model: string): Promise<string> {
  try {
    return await Deno.realPath(model);
  } catch (error) {
    throw readFault(model, "the model", error);
  }
}

async function runNpmPeer(name: string, peer: Peer, args: readonly string[]): Promise<string> {
  const { model } = readChoice(args);
  const given = [...args];
  // The script runs in a folder of its own.
  if (model !== undefined) given[args.indexOf("--model") + 1] = await realPath(model);
  const folder = await Deno.makeTempDir({ prefix: "nibble-peer-" });
  try {
    const fault = await install(folder, peer.packages!);
    if (fault !== null) return skipped(name, fault);
    for (const file of ["common.ts", peer.script]) {
      await Deno.copyFile(new URL(file, import.meta.url), `${folder}/${file}`);
    }
    if (peer.readsGguf && model === undefined) {
      await writeSmolLm2(`${folder}/smollm2.gguf`);
      given.push("--model", "smollm2.gguf");
    }
    const flags = ["run", "-A", "--quiet", "--no-check", "--no-lock", "--node-modules-dir=manual"];
    const env = { DENO_WEBGPU_BACKEND: "vulkan", XDG_RUNTIME_DIR: "/tmp", ...Deno.env.toObject() };
    const made = await run(Deno.execPath(), [...flags, peer.script, ...given], {
      cwd: folder,
      env,
    });
    return made.fault === null ? made.stdout : skipped(name, made.fault);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/**
 * Runs a peer.
 *
 * @param name its name in `PEERS`
 * @param args what its script is called with
 * @returns its report, as JSON
 * @throws {RangeError} if there is no such peer, or it takes no such arguments
 * @throws {Error} if a file that they name is not there
 */
export async function runPeer(name: string, args: readonly string[]): Promise<string> {
  const peer = Object.hasOwn(PEERS, name) ? PEERS[name] : null;
  if (!peer) {
    const names = Object.keys(PEERS).join(", ");
    throw new RangeError(`Cannot run the peer "${name}": wanted one of ${names}`);
  }
  if (peer.packages) return await runNpmPeer(name, peer, args);
  const script = new URL(peer.script, import.meta.url).pathname;
  const made = await run(Deno.env.get("NIBBLE_PYTHON") || "python3", [script, ...args]);
  if (made.code === WRONG_ARGUMENTS) {
    throw new RangeError(`Cannot run the peer "${name}": ${made.fault!.split(/error: /).at(-1)}`);
  }
  return made.fault === null ? made.stdout : skipped(name, made.fault);
}

if (import.meta.main) {
  const [name = "", ...args] = Deno.args;
  const bytes = (text: string) => new TextEncoder().encode(`${text.trimEnd()}\n`);
  try {
    Deno.stdout.writeSync(bytes(await runPeer(name, args)));
  } catch (error) {
    Deno.stderr.writeSync(bytes(`error: ${(error as Error).message}`));
    Deno.exit(1);
  }
}
