/**
 * The command line: `deno run -A cli.ts COMMAND`, or `deno task nibble COMMAND`.
 *
 * Exit codes: 0 done, 1 the command failed, 2 the command line or config file is wrong, 130 stopped by Ctrl-C.
 *
 * @module
 */
import { main } from "./cli/main.ts";

if (import.meta.main) Deno.exit(await main(Deno.args));
