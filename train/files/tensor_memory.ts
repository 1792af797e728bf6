/**
 * Memory for a tensor that is read whole.
 *
 * @module
 */
import { brief } from "./json_text.ts";

/** Below this size nothing is asked of the system. */
const SMALL = 1 << 28;

/** The machine's memory and swap in bytes; infinite where nibble may not know. */
function machineMemory(): number {
  const { state } = Deno.permissions.querySync({ name: "sys", kind: "systemMemoryInfo" });
  if (state !== "granted") return Infinity; // asking would stop the program at a prompt
  const { total, swapTotal } = Deno.systemMemoryInfo();
  return total + swapTotal;
}

/**
 * An array of zeros for a tensor of a file.
 *
 * Not all systems refuse what they do not have: with Linux's `vm.overcommit_memory=1` a tebibyte is given, and the process killed
 * where it is used. So it is refused here.
 *
 * @throws {RangeError} if it is more than there is memory for, naming the tensor and the file.
 */
export function tensorMemory<T extends Uint8Array | Float32Array>(
  Type: { new (length: number): T; readonly BYTES_PER_ELEMENT: number },
  length: number,
  name: string,
  path: string,
): T {
  const bytes = length * Type.BYTES_PER_ELEMENT;
  let cause: unknown;
  try {
    const most = bytes < SMALL ? Infinity : machineMemory();
    if (bytes <= most) return new Type(length);
    cause = new RangeError(`${bytes} bytes, and the machine has ${most}`);
  } catch (error) {
    cause = error;
  }
  throw new RangeError(
    `Cannot read ${
      brief(name)
    } in "${path}": it takes ${bytes} bytes, more than there is memory for; load it on a larger machine`,
    { cause },
  );
}
