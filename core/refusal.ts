/**
 * What to say where the GPU refuses work.
 *
 * @module
 */

/** What to do where memory, or one buffer of it, is too small. */
export const LESS_AT_A_TIME = "take less at a time: a smaller batch, or shorter sequences";

/** An error out of WebGPU's own, with advice where it is about memory. */
export function refusal(error: GPUError): Error {
  const isMemory = error instanceof GPUOutOfMemoryError ||
    /(out of|not enough) memory|binding_size|buffer size/i.test(error.message);
  return new Error(
    `The GPU refused work: ${error.message}${isMemory ? `; ${LESS_AT_A_TIME}` : ""}`,
  );
}
