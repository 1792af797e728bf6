/**
 * Two small networks for digits, with batch normalization: one of linear layers, one of convolutions.
 *
 * @module
 */
import type { Device } from "../../core/device.ts";
import { Random } from "../../core/random.ts";
import { empty, type Tensor, tensor } from "../../core/tensor.ts";
import { maxPool } from "../../kernels/pool/max_pool.ts";
import { relu } from "../../kernels/pointwise/relu.ts";
import { reshape } from "../../kernels/pointwise/reshape.ts";
import { BatchNorm } from "../nn/batch_norm.ts";
import { Conv2d } from "../nn/conv2d.ts";
import { Linear } from "../nn/linear.ts";
import { Module, type Named } from "../nn/module.ts";
import { BatchNormQat, type FoldableLayer } from "../quant/batch_norm.ts";
import { DIGITS, SIDE } from "./data.ts";

/** Which network: of linear layers, or of convolutions. */
export type DigitKind = "mlp" | "cnn";

/** A layer and the normalization behind it. */
export class NormalizedLayer extends Module {
  /** The layer, without a bias: the normalization has one. */
  readonly layer: FoldableLayer;
  /** What normalizes its output. */
  readonly norm: BatchNorm;

  /** Takes both as they are. */
  constructor(layer: FoldableLayer, norm: BatchNorm) {
    super();
    this.layer = layer;
    this.norm = norm;
  }

  /** Layer, then normalization. */
  forward(x: Tensor, training = false): Tensor {
    return this.norm.forward(this.layer.forward(x), training);
  }

  /** `layer` and `norm`. */
  override *children(): Generator<Named<Module>> {
    yield ["layer", this.layer];
    yield ["norm", this.norm];
  }
}

/** What a stage of a network begins with: before folding, in quantization-aware training, and folded. */
export type Unit = NormalizedLayer | BatchNormQat | FoldableLayer;

/** Channels behind each stage. */
const WIDTHS: Readonly<Record<DigitKind, readonly number[]>> = { mlp: [64, 64], cnn: [16, 32] };

/** A network: units with a rectifier behind each, in the CNN also pooling in squares of two pixels, then a linear layer. */
export class DigitNetwork extends Module {
  /** Which it is. */
  readonly kind: DigitKind;
  /** The units, one for each stage. */
  readonly units: readonly Unit[];
  /** The output layer, which is never quantized. */
  readonly head: Linear;

  /** Use `newNetwork`. */
  constructor(kind: DigitKind, units: readonly Unit[], head: Linear) {
    super();
    this.kind = kind;
    this.units = units;
    this.head = head;
  }

  /** f32 [batch, 8, 8, 1] to logits [batch, 10]. */
  forward(x: Tensor, training = false): Tensor {
    const batch = x.shape[0];
    let hidden = this.kind === "mlp" ? reshape(x, [batch, -1]) : x;
    for (const unit of this.units) {
      hidden = relu(
        unit instanceof NormalizedLayer || unit instanceof BatchNormQat
          ? unit.forward(hidden, training)
          : unit.forward(hidden),
      );
      if (this.kind === "cnn") hidden = maxPool(hidden, 2);
    }
    return this.head.forward(reshape(hidden, [batch, -1]));
  }

  /** The units by number, and `head`. */
  override *children(): Generator<Named<Module>> {
    for (const [i, unit] of this.units.entries()) yield [`units.${i}`, unit];
    yield ["head", this.head];
  }

  /** What is trained: all but running statistics. */
  *parameters(): Generator<Named<Tensor>> {
    for (const [path, module] of this.modules()) {
      for (const [name, t] of module.tensors()) {
        if (!name.startsWith("running_")) yield [`${path}.${name}`, t];
      }
    }
  }

  /** Frees everything. */
  dispose(): void {
    for (const [, module] of this.modules()) {
      for (const [, t] of module.tensors()) t.dispose();
    }
  }
}

/** Normal numbers of the deviation that keeps a rectifier's input at 1 (He et al., arXiv 1502.01852). */
function randomWeight(device: Device, shape: readonly number[], random: Random): Tensor {
  const size = shape.reduce((a, b) => a * b);
  const deviation = Math.sqrt(2 * shape[0] / size);
  return tensor(
    device,
    Float32Array.from({ length: size }, () => deviation * random.normal()),
    shape,
  );
}

/** A network with random weights, the same for the same seed. */
export function newNetwork(device: Device, kind: DigitKind, seed: number): DigitNetwork {
  const random = new Random(seed, kind === "mlp" ? 0x6d6c70 : 0x636e6e);
  let inputs = kind === "mlp" ? SIDE ** 2 : 1;
  const units = WIDTHS[kind].map((channels) => {
    const filled = (value: number) => tensor(device, new Float32Array(channels).fill(value));
    const layer = kind === "mlp"
      ? new Linear(randomWeight(device, [channels, inputs], random))
      : new Conv2d(randomWeight(device, [channels, 3, 3, inputs], random), null, { padding: 1 });
    inputs = channels;
    const running = { mean: filled(0), variance: filled(1) };
    return new NormalizedLayer(
      layer,
      new BatchNorm({ weight: filled(1), bias: filled(0), running }),
    );
  });
  // Two poolings leave two by two pixels.
  const width = kind === "mlp" ? inputs : 4 * inputs;
  const head = randomWeight(device, [DIGITS, width], random);
  return new DigitNetwork(kind, units, new Linear(head, tensor(device, new Float32Array(DIGITS))));
}

function copyOf(t: Tensor): Tensor {
  const copy = empty(t.device, t.shape);
  t.device.copy(t, copy);
  return copy;
}

/** A copy of a network that is not folded yet, each layer with its normalization made into what `make` says. */
export function copyNetwork(
  { kind, units, head }: DigitNetwork,
  make: (layer: FoldableLayer, norm: BatchNorm) => Unit = (layer, norm) =>
    new NormalizedLayer(layer, norm),
): DigitNetwork {
  const copies = units.map((unit) => {
    if (!(unit instanceof NormalizedLayer || unit instanceof BatchNormQat)) {
      throw new TypeError("Cannot copy a network whose normalizations are folded: copy it before");
    }
    const { layer, norm } = unit;
    const weight = copyOf(layer.weight);
    const { mean, variance } = norm.running;
    const running = { mean: copyOf(mean), variance: copyOf(variance) };
    return make(
      layer instanceof Linear ? new Linear(weight) : new Conv2d(weight, null, layer.moves),
      new BatchNorm({ ...norm, weight: copyOf(norm.weight), bias: copyOf(norm.bias), running }),
    );
  });
  return new DigitNetwork(kind, copies, new Linear(copyOf(head.weight), copyOf(head.bias!)));
}
