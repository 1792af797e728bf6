/** The only doors to stdout and stderr. */

const encoder = new TextEncoder();

function write(stream: typeof Deno.stdout | typeof Deno.stderr, text: string): void {
  let bytes = encoder.encode(text);
  try {
    while (bytes.length > 0) bytes = bytes.subarray(stream.writeSync(bytes));
  } catch (error) {
    // Whoever read the pipe is gone (`nibble inspect … | head`). The run goes on: it may have files to write.
    if (!(error instanceof Deno.errors.BrokenPipe)) throw error;
  }
}

/** Writes text to stdout as it is. */
export function printText(text: string): void {
  write(Deno.stdout, text);
}

/** Writes a line to stdout. */
export function printLine(line = ""): void {
  write(Deno.stdout, `${line}\n`);
}

/** Tells people a line. */
export type Say = (line: string) => void;

/** How to tell people what happens: on stdout, unless that is for one JSON object. */
export function sayUnless(json: boolean): Say {
  return json ? () => {} : printLine;
}

/** Writes a line to stderr. */
export function printError(line: string): void {
  write(Deno.stderr, `${line}\n`);
}

/** Writes one JSON value to stdout: what `--json` promises. */
export function printJson(value: unknown): void {
  write(Deno.stdout, `${JSON.stringify(value, null, 2)}\n`);
}
