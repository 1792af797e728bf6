/** `nibble quantize digits`: batch normalization, folded and quantized, on networks that are trained here and now. */
import { z } from "zod";
import { openDevice } from "../core/device.ts";
import { compareDigits, type DigitResult, type DigitScheme } from "../train/digits/compare.ts";
import type { FoldingResult } from "../train/digits/folding.ts";
import type { DigitKind } from "../train/digits/network.ts";
import { type Command, defineCommand } from "./command.ts";
import { LateBar } from "./late_bar.ts";
import { jsonSwitch } from "./options.ts";
import { percent, printJson, printLine, table } from "./print.ts";

const NETWORKS = ["mlp", "cnn"] as const satisfies readonly DigitKind[];

function accuracyCell({ accuracy, accuracies }: DigitResult): string {
  if (accuracies.length < 2) return percent(accuracy);
  const squares = accuracies.reduce((sum, own) => sum + (own - accuracy) ** 2, 0);
  const deviation = Math.sqrt(squares / (accuracies.length - 1));
  return `${percent(accuracy)} ± ${(100 * deviation).toFixed(1)}`;
}

const decibels = (value: number | null) => value === null ? "" : value.toFixed(1);

/** Schemes down, networks across. */
function accuracies(results: readonly DigitResult[], networks: readonly DigitKind[]): string {
  const schemes = new Map<string, DigitScheme>(results.map((result) => [result.name, result]));
  return table(
    [
      ...["weights", "batch norm", "trained"],
      ...networks.flatMap((network) => [`${network.toUpperCase()} accuracy`, "SQNR dB"]),
    ],
    [...schemes.values()].map(({ name, rounding, folded, trained }) => [
      rounding ? `int${rounding.bits} per ${rounding.per}` : "f32",
      folded ? "folded" : "apart",
      trained ? rounding ? "on as quantized" : "on in f32" : "in f32",
      ...networks.flatMap((network) => {
        const own = results.find((result) => result.network === network && result.name === name)!;
        return [accuracyCell(own), decibels(own.sqnr)];
      }),
    ]),
    { right: networks.flatMap((_, i) => [3 + 2 * i, 4 + 2 * i]) },
  );
}

function ranges(folding: readonly FoldingResult[]): string {
  return table(
    ["layer", "spread apart", "folded", "int8 per tensor apart", "folded", "per channel apart"]
      .concat("folded"),
    folding.map(({ network, layer, spread, sqnr: { perTensor, perChannel } }) => [
      `${network.toUpperCase()} ${layer + 1}`,
      ...[spread.apart, spread.folded].map((ratio) => ratio.toFixed(2)),
      ...[perTensor.apart, perTensor.folded, perChannel.apart, perChannel.folded].map(decibels),
    ]),
    { right: [1, 2, 3, 4, 5, 6] },
  );
}

const OPTIONS = z.strictObject({
  networks: z.array(z.enum(NETWORKS)).min(1).default([...NETWORKS])
    .meta({ description: "which, separated by commas: of linear layers, of convolutions" }),
  seeds: z.int().min(1).default(3)
    .meta({ description: "how many networks are trained of each, from seed 0", aka: ["seed"] }),
  epochs: z.int().min(1).default(10)
    .meta({ description: "how often training sees the 1,200 pictures" }),
  qatEpochs: z.int().min(1).default(4)
    .meta({ description: "how often training with quantized weights, which follows, sees them" }),
  json: jsonSwitch(),
});

const command: Command = defineCommand({
  name: "quantize digits",
  summary: "Batch norm folded and quantized: accuracy of two small networks on real digits",
  examples: [
    ["nibble quantize digits", "what folding costs, and what it changes for quantization"],
    ["nibble quantize digits --networks mlp --seeds 5 --json", "for machines"],
  ],
  options: OPTIONS,
  async run({ networks: named, seeds, epochs, qatEpochs, json }) {
    using device = await openDevice();
    const networks = [...new Set(named as DigitKind[])];
    using bar = new LateBar({ label: "Training networks", json });
    const comparison = await compareDigits(device, {
      networks,
      seeds: Array.from({ length: seeds }, (_, seed) => seed),
      epochs,
      qatEpochs,
      onProgress: bar.update,
    });
    bar.stop();
    if (json) return printJson({ seeds, epochs, qatEpochs, ...comparison });
    printLine(accuracies(comparison.results, networks));
    printLine(
      "on the last 597 digits of the file, of which the first 1,200 were learnt; SQNR of logits against f32.\n" +
        "Weights of the output layer, and all activations, stay in f32\n",
    );
    printLine(ranges(comparison.folding));
    printLine(
      "Spread: the largest weight of the widest channel as a multiple of that of the narrowest. INT8: the SQNR of " +
        "weights in dB,\nthe mean noise of channels, which count alike because each is normalized",
    );
  },
});
export default command;
