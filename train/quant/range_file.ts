/**
 * Calibration results in a file.
 *
 * @module
 */
import type { Range } from "../../kernels/quant/affine.ts";
import { type JsonLimits, readJsonOf } from "../files/input.ts";
import { brief } from "../files/json_text.ts";
import { writeWhole } from "../files/output.ts";
import type { ActivationRanges, LayerRange, Smoothing } from "./activation_ranges.ts";
import type { CalibrationObserver } from "./input_statistics.ts";
import { checkAlpha } from "./smooth_quant.ts";

/** What the file says that it is. */
const FORMAT = "nibble activation ranges 1";

/** A number for each channel of each layer's input: of the largest models some millions. */
const LIMITS: JsonLimits = { bytes: 1 << 27, commas: 8_000_000, keys: 3 };

/** A float32 in as few digits as give it back. */
const short = (x: number) => Number(x.toPrecision(9));

/**
 * Writes what calibration found as JSON: ranges of each layer's input, the largest magnitude of each channel, and SmoothQuant's
 * factors, if there are any.
 *
 * @param path where to; a file there is replaced
 * @param ranges what `calibrateActivations` found
 *
 * @example
 * ```ts
 * import { calibrateActivations, loadModel, loadRanges, openDevice, saveRanges } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const model = await loadModel(device, "assets/base");
 * const ids = model.tokenizer!.encode("a large wild cat with stripes; a tool for driving nails into wood");
 * const path = await Deno.makeTempFile();
 * await saveRanges(path, await calibrateActivations(model, { text: { ids } }));
 * console.log((await loadRanges(path)).layers.size); // 28
 * ```
 */
export async function saveRanges(path: string, ranges: ActivationRanges): Promise<void> {
  const { observer, kind, tokens, smoothing, layers } = ranges;
  // Layers that read the same share one entry.
  const inputs = new Map<LayerRange, string[]>();
  for (const [layer, own] of layers) {
    const readers = inputs.get(own);
    if (readers) readers.push(layer);
    else inputs.set(own, [layer]);
  }
  const json = {
    ...{ format: FORMAT, observer, kind, tokens },
    smoothing: smoothing && {
      alpha: smoothing.alpha,
      scalings: smoothing.scalings.map(({ source, readers, factors }) => ({
        ...{ source, readers },
        factors: Array.from(factors, short),
      })),
    },
    inputs: [...inputs].map(([{ range, seen, channels }, own]) => ({
      ...{ layers: own, range, seen },
      channels: Array.from(channels, short),
    })),
  };
  await writeWhole(path, JSON.stringify(json) + "\n");
}

/** Reads values out of the file, and says where one is wrong. */
class Reader {
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  fault(where: string, found: unknown, wanted: string): TypeError {
    return new TypeError(
      `Cannot read the activation ranges "${this.#path}": ${where} is ${
        brief(found)
      }, wanted ${wanted}; calibrate again`,
    );
  }

  object(where: string, value: unknown): Record<string, unknown> {
    if (typeof value === "object" && value && !Array.isArray(value)) {
      return value as Record<string, unknown>;
    }
    throw this.fault(where, value, "an object");
  }

  list(where: string, value: unknown): unknown[] {
    if (Array.isArray(value) && value.length > 0) return value;
    throw this.fault(where, value, "a list that is not empty");
  }

  number(where: string, value: unknown, low = -Infinity): number {
    if (typeof value === "number" && Number.isFinite(Math.fround(value)) && value >= low) {
      return value;
    }
    throw this.fault(
      where,
      value,
      low === -Infinity ? "a finite number" : `a number of ${low} at least`,
    );
  }

  text(where: string, value: unknown): string {
    if (typeof value === "string" && value !== "") return value;
    throw this.fault(where, value, "a name");
  }

  texts(where: string, value: unknown): string[] {
    return this.list(where, value).map((own, i) => this.text(`${where}[${i}]`, own));
  }

  numbers(where: string, value: unknown, low: number): Float32Array<ArrayBuffer> {
    const list = this.list(where, value);
    return Float32Array.from(list, (own, i) => this.number(`${where}[${i}]`, own, low));
  }

  range(where: string, value: unknown): Range {
    const own = this.object(where, value);
    const low = this.number(`${where}.low`, own.low);
    return { low, high: this.number(`${where}.high`, own.high, low) };
  }

  observer(value: unknown): CalibrationObserver {
    const { kind, percentile, momentum } = this.object("observer", value);
    const optional = (name: string, own: unknown) =>
      own === undefined ? {} : { [name]: this.number(`observer.${name}`, own, 0) };
    switch (kind) {
      case "min-max":
      case "mse":
      case "entropy":
        return { kind };
      case "moving-average":
        return { kind, ...optional("momentum", momentum) };
      case "percentile":
        return { kind, ...optional("percentile", percentile) };
    }
    throw this.fault("observer.kind", kind, "the name of an observer");
  }

  smoothing(value: unknown): Smoothing | null {
    if (value === null) return null;
    const own = this.object("smoothing", value);
    const alpha = this.number("smoothing.alpha", own.alpha);
    checkAlpha(alpha);
    const scalings = this.list("smoothing.scalings", own.scalings).map((one, i) => {
      const where = `smoothing.scalings[${i}]`;
      const { source, readers, factors } = this.object(where, one);
      return {
        source: this.text(`${where}.source`, source),
        readers: this.texts(`${where}.readers`, readers),
        // Below, a product may no longer be a number.
        factors: this.numbers(`${where}.factors`, factors, 1e-6),
      };
    });
    return { alpha, scalings };
  }
}

/**
 * Reads what `saveRanges` wrote. Whether it fits a model is checked where it is used.
 *
 * @throws {Error} if there is no such file
 * @throws {SyntaxError} if it holds no JSON
 * @throws {TypeError} if it holds something else than activation ranges, naming it
 */
export async function loadRanges(path: string): Promise<ActivationRanges> {
  const json = await readJsonOf(path, "the activation ranges", LIMITS);
  const reader = new Reader(path);
  if (json.format !== FORMAT) throw reader.fault("format", json.format, JSON.stringify(FORMAT));
  const { kind } = json;
  if (kind !== "symmetric" && kind !== "asymmetric") {
    throw reader.fault("kind", kind, '"symmetric" or "asymmetric"');
  }
  const layers = new Map<string, LayerRange>();
  for (const [i, value] of reader.list("inputs", json.inputs).entries()) {
    const where = `inputs[${i}]`;
    const own = reader.object(where, value);
    const found: LayerRange = {
      range: reader.range(`${where}.range`, own.range),
      seen: reader.range(`${where}.seen`, own.seen),
      channels: reader.numbers(`${where}.channels`, own.channels, 0),
    };
    for (const layer of reader.texts(`${where}.layers`, own.layers)) {
      if (layers.has(layer)) throw reader.fault(`${where}.layers`, layer, "each layer once");
      layers.set(layer, found);
    }
  }
  return {
    observer: reader.observer(json.observer),
    kind,
    tokens: reader.number("tokens", json.tokens, 1),
    smoothing: reader.smoothing(json.smoothing),
    layers,
  };
}
