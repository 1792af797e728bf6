import { tensorMemory } from "../../../train/files/tensor_memory.ts";
import { assert, assertEquals, assertThrows } from "../../assert.ts";

Deno.test("tensorMemory() gives zeros, and names a tensor that is more than the machine has", () => {
  assertEquals([...tensorMemory(Float32Array, 3, "w", "a.safetensors")], [0, 0, 0]);
  const { total, swapTotal } = Deno.systemMemoryInfo();
  for (const [Type, bytes] of [[Uint8Array, 1], [Float32Array, 4]] as const) {
    const length = Math.ceil((total + swapTotal) / bytes) + 1;
    const { cause } = assertThrows(
      () => tensorMemory<Uint8Array | Float32Array>(Type, length, "w", "a.safetensors"),
      RangeError,
      `Cannot read "w" in "a.safetensors": it takes ${length * bytes} bytes, more than there is ` +
        "memory for; load it on a larger machine",
    );
    // The engine was not asked: it may give what is not there.
    assert(String(cause).endsWith(`the machine has ${total + swapTotal}`), String(cause));
  }
});
