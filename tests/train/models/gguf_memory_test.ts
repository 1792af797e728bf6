import { GgufFile } from "../../../train/files/gguf.ts";
import { assert, assertEquals } from "../../assert.ts";
import { peakDuring } from "../../peak_memory.ts";
import { smolLm2Test } from "../../smollm2.ts";

smolLm2Test("all of the file is decoded in a few seconds, in little memory", async (path) => {
  using file = await GgufFile.open(path);
  const start = performance.now();
  const { peak, result } = await peakDuring(async () => {
    let count = 0;
    for (const name of file.entries.keys()) count += (await file.readFloats(name)).length;
    return count;
  });
  assertEquals(result, 134_515_008);
  // 0.8 s alone on one core. Collected or not, the tensors never come near the 538 MB of the whole model at once.
  assert(performance.now() - start < 20_000);
  assert(peak === null || peak < 500e6, `${peak} bytes`);
});
