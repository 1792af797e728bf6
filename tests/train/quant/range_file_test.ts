import { randomModel } from "../../../train/models/load.ts";
import {
  type ActivationRanges,
  calibrateActivations,
} from "../../../train/quant/activation_ranges.ts";
import { quantizeActivations } from "../../../train/quant/quantize_activations.ts";
import { loadRanges, saveRanges } from "../../../train/quant/range_file.ts";
import { assert, assertEquals, assertRejects } from "../../assert.ts";
import { device } from "../../device.ts";
import { LLAMA, logits, TEXT } from "../../tiny_models.ts";
import { withFolder } from "../../with_folder.ts";

const withFile = (body: (path: string) => Promise<void>) =>
  withFolder((folder) => body(`${folder}/ranges.json`));

Deno.test("ranges come out of their file as they went in, and quantize a model alike", async () => {
  const model = randomModel(device, LLAMA, { seed: 5 });
  const by = async (ranges: ActivationRanges) => {
    const made = await quantizeActivations(model, { activations: "static", ranges });
    const found = await logits(model);
    made.restore();
    return found;
  };
  for (
    const options of [
      { text: TEXT },
      { text: TEXT, kind: "asymmetric", observer: { kind: "percentile", percentile: 99.5 } },
      { text: TEXT, smooth: 0.4, observer: { kind: "moving-average", momentum: 0.1 } },
    ] as const
  ) {
    const ranges = await calibrateActivations(model, options);
    await withFile(async (path) => {
      await saveRanges(path, ranges);
      const loaded = await loadRanges(path);
      assertEquals({ ...loaded, layers: new Map() }, { ...ranges, layers: new Map() });
      assertEquals([...loaded.layers], [...ranges.layers]);
      assertEquals(await by(loaded), await by(ranges));
    });
  }
  model.dispose();
});

Deno.test("a file that holds something else than ranges is refused, saying where", async () => {
  const model = randomModel(device, LLAMA, { seed: 5 });
  const ranges = await calibrateActivations(model, { text: TEXT, smooth: 0.5 });
  await withFile(async (path) => {
    await saveRanges(path, ranges);
    const whole = await Deno.readTextFile(path);
    // deno-lint-ignore no-explicit-any
    const broken = async (change: (json: any) => void, part: string) => {
      const json = JSON.parse(whole);
      change(json);
      await Deno.writeTextFile(path, JSON.stringify(json));
      await assertRejects(() => loadRanges(path), Error, part);
    };
    await broken((json) => json.format = "other", 'format is "other"');
    await broken((json) => json.kind = "odd", 'kind is "odd"');
    await broken((json) => json.tokens = 0, "tokens is 0");
    await broken((json) => json.inputs = [], "inputs is []");
    await broken((json) => json.inputs[1].range.low = "a", 'inputs[1].range.low is "a"');
    await broken((json) => json.inputs[0].range.high = -1e9, "inputs[0].range.high is -1000000000");
    await broken((json) => json.inputs[0].seen.high = 1e39, "inputs[0].seen.high is 1e+39");
    await broken((json) => json.inputs[0].channels[3] = null, "inputs[0].channels[3] is null");
    await broken((json) => json.inputs[1].layers = json.inputs[0].layers, "each layer once");
    await broken((json) => json.observer.kind = "best", 'observer.kind is "best"');
    await broken((json) => json.smoothing.alpha = 7, "alpha of 7");
    const factors = "smoothing.scalings[0].factors[2] is 0";
    await broken((json) => json.smoothing.scalings[0].factors[2] = 0, factors);
    await broken((json) => delete json.smoothing, "smoothing is nothing");
    await Deno.writeTextFile(path, whole.slice(0, 100));
    await assertRejects(() => loadRanges(path), SyntaxError, "not valid JSON");
    await assertRejects(() => loadRanges(`${path}.none`), Error, "there is no such file");
  });
  assert(ranges.layers.size === 14);
  model.dispose();
});
