/**
 * jax-js (npm @jax-js/jax): products, softmax, and training steps of a GPT, with `jit`. Run it through run.ts.
 *
 * The gradient of a table lookup is refused by Deno's WebGPU, so that tokens are one-hot rows here.
 *
 * @module
 */
import {
  adapterName,
  causalMask,
  gptParameters,
  type GptShape,
  measureChoice,
  oneHot,
  PeerReport,
  randomIds,
  randomNumbers,
  sample,
  shapeOf,
  stepRow,
  versionOf,
} from "./common.ts";

// The package is installed where run.ts puts this file.
const PACKAGE = "@jax-js/jax";
const jax = await import(PACKAGE);
const { numpy: np, nn, jit, valueAndGrad, tree } = jax;

// deno-lint-ignore no-explicit-any
type Arr = any;
type Tree = Record<string, Arr>;

function arrayOf(numbers: Float32Array, shape: number[]): Arr {
  return np.array(numbers).reshape(shape);
}

/** Multiplies `x` by a matrix that keeps its size, again and again, each product waiting for the last. */
function measureMatmul(n: number) {
  return async () => {
    const b = arrayOf(randomNumbers(n * n, 2, 1 / Math.sqrt(n)), [n, n]);
    const product = jit((x: Arr, y: Arr) => np.matmul(x, y));
    let x = arrayOf(randomNumbers(n * n, 1), [n, n]);
    const times = await sample(async (count) => {
      for (let i = 0; i < count; i++) x = product(x, b.ref);
      await x.ref.slice([0, 1], [0, 1]).data();
    });
    x.dispose();
    b.dispose();
    return { ...times, gflops: 2 * n ** 3 / (times.ms * 1e6) };
  };
}

function measureSoftmax(n: number) {
  return async () => {
    const softmax = jit((x: Arr) => nn.softmax(x, -1));
    let x = arrayOf(randomNumbers(n * n, 1), [n, n]);
    const times = await sample(async (count) => {
      for (let i = 0; i < count; i++) x = softmax(x);
      await x.ref.slice([0, 1], [0, 1]).data();
    });
    x.dispose();
    return { ...times, gbps: 8 * n * n / (times.ms * 1e6) };
  };
}

function layerNorm(x: Arr, gain: Arr, bias: Arr): Arr {
  const centred = x.ref.sub(np.mean(x, -1, { keepdims: true }));
  const variance = np.mean(np.square(centred.ref), -1, { keepdims: true });
  return centred.mul(np.reciprocal(np.sqrt(variance.add(1e-5)))).mul(gain).add(bias);
}

/** The mean cross-entropy of the next token. It owns what it is given. */
function lossOf(shape: GptShape, p: Tree, ids: Arr, targets: Arr, mask: Arr): Arr {
  const { layers, dim, heads, batch, length } = shape;
  const size = dim / heads;
  const linear = (x: Arr, name: string) => np.matmul(x, p[`${name}.w`]).add(p[`${name}.b`]);
  const split = (x: Arr, order: number[]) =>
    np.transpose(x.reshape([batch, length, heads, size]), order);
  let x = np.matmul(ids, p.wte.ref).reshape([batch, length, dim]).add(p.wpe);
  for (let i = 0; i < layers; i++) {
    const h = layerNorm(x.ref, p[`${i}.ln1.g`], p[`${i}.ln1.b`]);
    const q = split(linear(h.ref, `${i}.q`), [0, 2, 1, 3]);
    const k = split(linear(h.ref, `${i}.k`), [0, 2, 3, 1]);
    const v = split(linear(h, `${i}.v`), [0, 2, 1, 3]);
    const scores = np.matmul(q, k).mul(1 / Math.sqrt(size)).add(mask.ref);
    const mixed = np.transpose(np.matmul(nn.softmax(scores, -1), v), [0, 2, 1, 3]);
    x = x.add(linear(mixed.reshape([batch, length, dim]), `${i}.o`));
    const m = layerNorm(x.ref, p[`${i}.ln2.g`], p[`${i}.ln2.b`]);
    x = x.add(linear(nn.gelu(linear(m, `${i}.fc`)), `${i}.proj`));
  }
  mask.dispose();
  const last = layerNorm(x, p["lnf.g"], p["lnf.b"]).reshape([batch * length, dim]);
  const logits = np.matmul(last, np.transpose(p.wte));
  return nn.logSoftmax(logits, -1).mul(targets).sum().mul(-1 / (batch * length));
}

const RATE = 1e-4;

function measureGpt(shape: GptShape) {
  const { batch, length, vocab } = shape;
  return async () => {
    const step = jit((p: Tree, m: Tree, v: Tree, ids: Arr, targets: Arr, mask: Arr) => {
      const loss = (own: Tree) => lossOf(shape, own, ids.ref, targets.ref, mask.ref);
      const [value, grads] = valueAndGrad(loss)(tree.ref(p));
      for (const own of [ids, targets, mask]) own.dispose();
      const next: [Tree, Tree, Tree] = [{}, {}, {}];
      // Adam, without the correction of its first steps.
      for (const name of Object.keys(p)) {
        const mean = m[name].mul(0.9).add(grads[name].ref.mul(0.1));
        const square = v[name].mul(0.999).add(np.square(grads[name]).mul(0.001));
        const root = np.sqrt(square.ref).add(1e-8);
        next[0][name] = p[name].sub(mean.ref.mul(np.reciprocal(root)).mul(RATE));
        next[1][name] = mean;
        next[2][name] = square;
      }
      return [...next, value];
    });
    const numbers = gptParameters(shape);
    const filled = (zero: boolean) =>
      Object.fromEntries(
        Array.from(numbers, ([name, own]) => {
          return [name, arrayOf(zero ? new Float32Array(own.length) : own, shapeOf(name, shape))];
        }),
      );
    let [p, m, v]: Tree[] = [filled(false), filled(true), filled(true)];
    const tokens = randomIds(batch * length + 1, vocab, 9);
    const rows = (from: number) =>
      arrayOf(oneHot(tokens.slice(from, from + batch * length), vocab), [batch * length, vocab]);
    const [ids, targets] = [rows(0), rows(1)];
    const mask = arrayOf(causalMask(length), [length, length]);
    let last = NaN;
    const run = async (count: number) => {
      let value: Arr = null;
      for (let i = 0; i < count; i++) {
        value?.dispose();
        [p, m, v, value] = step(p, m, v, ids.ref, targets.ref, mask.ref);
      }
      [last] = await value.data();
    };
    const start = performance.now();
    await run(1);
    const cold = performance.now() - start;
    if (!Number.isFinite(last)) throw new Error(`the loss is ${last}`);
    return stepRow(shape, await sample(run), cold);
  };
}

const report = new PeerReport();
const devices: string[] = await jax.init();
if (devices.includes("webgpu")) {
  jax.defaultDevice("webgpu");
  await measureChoice(report, { matmul: measureMatmul, softmax: measureSoftmax, gpt: measureGpt });
} else report.skip("jax-js", `it has only the devices ${devices.join(", ")}`);
report.print(await adapterName(), { "jax-js": versionOf(PACKAGE) });
Deno.exit();
