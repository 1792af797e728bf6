/**
 * Writes a GGUF file of SmolLM2-135M's shape with random weights, for peers that read such files.
 *
 * @module
 */
import { openDevice } from "../../core/device.ts";
import { writeRandomGguf } from "../end_to_end/random_gguf.ts";
import { SMOLLM2 } from "../end_to_end/shapes.ts";

/**
 * Writes the file.
 *
 * @param path where it goes
 * @param isTiny the shape that tests use
 */
export async function writeSmolLm2(path: string, isTiny = false): Promise<void> {
  using device = await openDevice();
  await writeRandomGguf(device, isTiny ? SMOLLM2.tiny : SMOLLM2.full, path);
}

if (import.meta.main) await writeSmolLm2(Deno.args[0] ?? "smollm2.gguf");
