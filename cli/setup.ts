/**
 * `deno task setup`: makes sure that a WebGPU adapter is there. Where none is and this process may install packages (root on
 * Debian, Ubuntu and their kin), it installs software Vulkan; elsewhere it says what to type. Running it again changes nothing.
 *
 * @module
 */
import { findAdapter, noAdapterError } from "../core/adapter.ts";
import { driverCommand, isRoot, readOsRelease } from "../core/driver.ts";
import { printError, printLine } from "./output.ts";

/** Asks a fresh process whether there is an adapter. */
const PROBE = "--probe";

/** So many of the installer's last lines are shown when it fails. */
const TAIL = 15;

/** The machine, as far as the installation of a driver depends on it. */
export interface Machine {
  /** Deno's name of the operating system. */
  readonly os: typeof Deno.build.os;
  /** The text of /etc/os-release, or nothing. */
  readonly osRelease: string;
  /** Whether this process may install packages. */
  readonly root: boolean;
}

/** The shell command that setup may run by itself on a machine without an adapter, or `null` where the user must act. */
export function automaticCommand({ os, osRelease, root }: Machine): string | null {
  if (os !== "linux" || !root) return null;
  const command = driverCommand(osRelease);
  // The other package managers' commands are known but were never tried: those are printed and not run.
  return command?.startsWith("apt-get ") ? command : null;
}

/** What setup needs from the world; tests bring their own. */
export interface World {
  /** Where this runs. */
  readonly machine: Machine;
  /** Whether this process sees an adapter. */
  hasAdapter(): Promise<boolean>;
  /** Whether a new process sees one: a process looks for drivers once, and never sees one that was installed later. */
  hasAdapterNow(): Promise<boolean>;
  /** Runs a shell command; its exit code, and what it printed. */
  install(command: string): Promise<{ code: number; output: string }>;
  /** Tells the user. */
  say(line: string): void;
}

/**
 * Makes sure that there is an adapter.
 *
 * @throws {Error} if there is none, and none could be installed; the message has the command to type
 */
export async function setup(world: World): Promise<void> {
  if (await world.hasAdapter()) return;
  const command = automaticCommand(world.machine);
  if (!command) throw noAdapterError();
  world.say(`No WebGPU adapter found; installing software Vulkan: ${command}`);
  const { code, output } = await world.install(command);
  if (code !== 0) {
    const tail = output.trim().split("\n").slice(-TAIL).join("\n");
    throw new Error(
      `Cannot install software Vulkan: the installer ended with code ${code}. Run it yourself: ${command}\n${tail}`,
    );
  }
  if (!await world.hasAdapterNow()) {
    throw new Error(
      `Cannot find a WebGPU adapter, though this command succeeded: ${command}. ` +
        "Check that DENO_WEBGPU_BACKEND, VK_DRIVER_FILES and VK_ICD_FILENAMES are not set to something else",
    );
  }
  world.say("Software Vulkan is installed");
}

const hasAdapter = async () => await findAdapter() !== null;

async function runCommand(
  program: string,
  args: string[],
  env: Record<string, string> = {},
): Promise<{ code: number; output: string }> {
  const child = new Deno.Command(program, { args, env, stdin: "null" });
  const { code, stdout, stderr } = await child.output();
  const decoder = new TextDecoder();
  return { code, output: decoder.decode(stdout) + decoder.decode(stderr) };
}

async function main(args: readonly string[]): Promise<number> {
  if (args.includes(PROBE)) return await hasAdapter() ? 0 : 1;
  try {
    await setup({
      machine: { os: Deno.build.os, osRelease: readOsRelease(), root: isRoot() },
      hasAdapter,
      hasAdapterNow: async () => {
        const probe = ["run", "-A", "--no-check", import.meta.filename!, PROBE];
        return (await runCommand(Deno.execPath(), probe)).code === 0;
      },
      install: (command) =>
        runCommand("sh", ["-c", command], { DEBIAN_FRONTEND: "noninteractive" }),
      say: printLine,
    });
    return 0;
  } catch (error) {
    printError(`error: ${error instanceof Error ? error.message : error}`);
    return 1;
  }
}

if (import.meta.main) Deno.exit(await main(Deno.args));
