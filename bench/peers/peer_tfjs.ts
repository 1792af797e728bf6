/**
 * TensorFlow.js on its WebGPU backend (npm @tensorflow/tfjs, @tensorflow/tfjs-backend-webgpu): products, softmax, and training
 * steps of the same GPT as jax-js's. Run it through run.ts.
 *
 * @module
 */
import {
  adapterName,
  causalMask,
  gptParameters,
  type GptShape,
  measureChoice,
  PeerReport,
  randomIds,
  randomNumbers,
  sample,
  shapeOf,
  stepRow,
} from "./common.ts";

// The packages are installed where run.ts puts this file.
const PACKAGES = ["@tensorflow/tfjs", "@tensorflow/tfjs-backend-webgpu"];
const loaded = await import(PACKAGES[0]);
await import(PACKAGES[1]);
const tf = loaded.default ?? loaded;

// deno-lint-ignore no-explicit-any
type T = any;

/** Applies `op` to its own result, and reads one element at the end. */
async function chain(x: T, op: (x: T) => T) {
  const times = await sample(async (count) => {
    for (let i = 0; i < count; i++) {
      const next = op(x);
      x.dispose();
      x = next;
    }
    const one = x.slice([0, 0], [1, 1]);
    await one.data();
    one.dispose();
  });
  x.dispose();
  return times;
}

function square(n: number, seed: number, deviation = 1): T {
  return tf.tensor2d(randomNumbers(n * n, seed, deviation), [n, n]);
}

function measureMatmul(n: number) {
  return async () => {
    const b = square(n, 2, 1 / Math.sqrt(n));
    const times = await chain(square(n, 1), (x) => tf.matMul(x, b));
    b.dispose();
    return { ...times, gflops: 2 * n ** 3 / (times.ms * 1e6) };
  };
}

function measureSoftmax(n: number) {
  return async () => {
    const times = await chain(square(n, 1), (x) => tf.softmax(x, -1));
    return { ...times, gbps: 8 * n * n / (times.ms * 1e6) };
  };
}

function layerNorm(x: T, gain: T, bias: T): T {
  const { mean, variance } = tf.moments(x, -1, true);
  return x.sub(mean).mul(tf.rsqrt(variance.add(1e-5))).mul(gain).add(bias);
}

/** GELU by its usual approximation with tanh: tfjs has none. */
function gelu(x: T): T {
  const inner = x.add(x.mul(x).mul(x).mul(0.044715)).mul(Math.sqrt(2 / Math.PI));
  return x.mul(0.5).mul(tf.tanh(inner).add(1));
}

function lossOf(shape: GptShape, p: Record<string, T>, ids: T, targets: T, mask: T): T {
  const { layers, dim, heads, batch, length, vocab } = shape;
  const rows = batch * length;
  const linear = (x: T, name: string) => tf.matMul(x, p[`${name}.w`]).add(p[`${name}.b`]);
  const split = (x: T) => x.reshape([batch, length, heads, dim / heads]).transpose([0, 2, 1, 3]);
  const places = p.wpe.reshape([1, length, dim]);
  let x = tf.gather(p.wte, ids).reshape([batch, length, dim]).add(places).reshape([rows, dim]);
  for (let i = 0; i < layers; i++) {
    const h = layerNorm(x, p[`${i}.ln1.g`], p[`${i}.ln1.b`]);
    const [q, k, v] = ["q", "k", "v"].map((name) => split(linear(h, `${i}.${name}`)));
    const scores = tf.matMul(q, k, false, true).mul(1 / Math.sqrt(dim / heads)).add(mask);
    const mixed = tf.matMul(tf.softmax(scores, -1), v).transpose([0, 2, 1, 3]);
    x = x.add(linear(mixed.reshape([rows, dim]), `${i}.o`));
    const m = layerNorm(x, p[`${i}.ln2.g`], p[`${i}.ln2.b`]);
    x = x.add(linear(gelu(linear(m, `${i}.fc`)), `${i}.proj`));
  }
  const logits = tf.matMul(layerNorm(x, p["lnf.g"], p["lnf.b"]), p.wte, false, true);
  const hot = tf.oneHot(targets, vocab);
  return tf.logSoftmax(logits, -1).mul(hot).sum().mul(-1 / rows);
}

function measureGpt(shape: GptShape) {
  const { batch, length, vocab } = shape;
  return async () => {
    const p: Record<string, T> = {};
    for (const [name, numbers] of gptParameters(shape)) {
      p[name] = tf.variable(tf.tensor(numbers, shapeOf(name, shape)));
    }
    const tokens = randomIds(batch * length + 1, vocab, 9);
    const ids = tf.tensor1d(tokens.slice(0, -1), "int32");
    const targets = tf.tensor1d(tokens.slice(1), "int32");
    const mask = tf.tensor2d(causalMask(length), [length, length]);
    const adam = tf.train.adam(1e-4);
    const variables = Object.values(p);
    let last = NaN;
    const run = async (count: number) => {
      let value: T = null;
      for (let i = 0; i < count; i++) {
        value?.dispose();
        const step = () => tf.tidy(() => lossOf(shape, p, ids, targets, mask));
        value = adam.minimize(step, true, variables);
      }
      [last] = await value.data();
      value.dispose();
    };
    const start = performance.now();
    await run(1);
    const cold = performance.now() - start;
    if (!Number.isFinite(last)) throw new Error(`the loss is ${last}`);
    const row = stepRow(shape, await sample(run), cold);
    for (const own of [...variables, ids, targets, mask]) own.dispose();
    adam.dispose();
    return row;
  };
}

const report = new PeerReport();
if (await tf.setBackend("webgpu").catch(() => false)) {
  await tf.ready();
  await measureChoice(report, { matmul: measureMatmul, softmax: measureSoftmax, gpt: measureGpt });
} else report.skip("tfjs", "its WebGPU backend does not start");
report.print(await adapterName(), { tfjs: tf.version.tfjs });
Deno.exit();
