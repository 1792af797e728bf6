/**
 * llama.cpp through its npm binding (node-llama-cpp), on Vulkan where there is a driver: decoding and prefill of a GGUF file. Run it
 * through run.ts, which writes a file of SmolLM2-135M's shape in Q4_0 with random weights.
 *
 * @module
 */
import { PeerReport, randomIds, readChoice, sample, versionOf } from "./common.ts";

// The package is installed where run.ts puts this file.
const PACKAGE = "node-llama-cpp";

const PROMPT = 16;
const PREFILL = 512;

// deno-lint-ignore no-explicit-any
type Sequence = any;

async function decode(sequence: Sequence, answer: number): Promise<void> {
  await sequence.clearHistory();
  let made = 0;
  for await (const _ of sequence.evaluate([...randomIds(PROMPT, 256, 4)], { temperature: 0 })) {
    if (++made === answer) break;
  }
  if (made < answer) throw new Error(`it ended after ${made} tokens`);
}

async function prefill(sequence: Sequence): Promise<void> {
  await sequence.clearHistory();
  await sequence.evaluateWithoutGeneratingNewTokens([...randomIds(PREFILL, 256, 4)]);
}

async function repeated(run: () => Promise<void>) {
  const start = performance.now();
  await run();
  const coldMs = performance.now() - start;
  const times = await sample(async (count) => {
    for (let i = 0; i < count; i++) await run();
  });
  return { coldMs, times };
}

const report = new PeerReport();
let adapter = "none";
const versions: Record<string, string> = { [PACKAGE]: versionOf(PACKAGE) };
try {
  const { getLlama } = await import(PACKAGE);
  const llama = await getLlama({ build: "never", gpu: "auto", logLevel: "error" });
  const names: string[] = llama.gpu ? await llama.getGpuDeviceNames() : [];
  adapter = names[0] ?? "CPU";
  versions.backend = names[0] ? llama.gpu : "cpu";
  const { model: modelPath, answer } = readChoice();
  const model = await llama.loadModel({ modelPath });
  const context = await model.createContext({ contextSize: 1024, batchSize: PREFILL });
  const sequence = context.getSequence();
  const shape = `batch=1 prompt=${PROMPT} answer=${answer}`;
  await report.row("decode smollm2", shape, async () => {
    const { coldMs, times } = await repeated(() => decode(sequence, answer));
    const { ms, minMs, maxMs } = times;
    return {
      ms: ms / answer,
      minMs: minMs / answer,
      maxMs: maxMs / answer,
      tokensPerSecond: 1000 * answer / ms,
      coldMs,
    };
  });
  await report.row("prefill smollm2", `batch=1 length=${PREFILL}`, async () => {
    const { coldMs, times } = await repeated(() => prefill(sequence));
    return { ...times, tokensPerSecond: 1000 * PREFILL / times.ms, coldMs };
  });
} catch (error) {
  report.skip("llama.cpp", error);
}
report.print(adapter, versions);
Deno.exit();
