/** Runs the command line as a user does: in its own process, piped. */

/** What a command left behind. */
export interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

const ROOT = new URL("../..", import.meta.url);

/** Runs `nibble` with these arguments and waits for its end. */
export async function nibble(...args: string[]): Promise<Outcome> {
  return await nibbleWith({}, ...args);
}

/** The same with a text on its stdin. */
export async function nibbleFed(input: string, ...args: string[]): Promise<Outcome> {
  const child = spawnNibble(args, { NO_COLOR: "1" }, "cli.ts", "piped");
  const writer = child.stdin.getWriter();
  // A command that fails before it reads closes its end.
  await writer.write(new TextEncoder().encode(input)).then(() => writer.close()).catch(() => {});
  return decoded(await child.output());
}

/** The same with more variables in its environment. */
export async function nibbleWith(
  env: Record<string, string>,
  ...args: string[]
): Promise<Outcome> {
  return decoded(await spawnNibble(args, { NO_COLOR: "1", ...env }).output());
}

function decoded({ code, stdout, stderr }: Deno.CommandOutput): Outcome {
  const decoder = new TextDecoder();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

/** Starts a script of this repository in a process of its own, `cli.ts` if none is named. */
export function spawnNibble(
  args: readonly string[],
  env: Record<string, string> = {},
  script = "cli.ts",
  stdin: "null" | "piped" = "null",
): Deno.ChildProcess {
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", "--no-check", script, ...args],
    cwd: ROOT,
    env,
    stdin,
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}
