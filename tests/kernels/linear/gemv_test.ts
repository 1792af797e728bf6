import { findAdapter, openAdapter } from "../../../core/adapter.ts";
import { Device } from "../../../core/device.ts";
import { empty, tensor } from "../../../core/tensor.ts";
import { fitsGemv, gemv, texelGemv } from "../../../kernels/linear/gemv.ts";
import { gemvRef } from "../../../kernels/linear/gemv_ref.ts";
import { chooseVariant, matmul, runProduct } from "../../../kernels/linear/matmul.ts";
import type { Product } from "../../../kernels/linear/product.ts";
import { assert, assertEquals, assertRelativeError } from "../../assert.ts";
import { device as shared, randomNumbers } from "../../device.ts";
import { checkOp } from "../../gradient.ts";

function operands(m: number, n: number, k: number, withAdd: boolean, device = shared) {
  const [x, w, add] = [m * k, n * k, m * n].map((size, i) => randomNumbers(size, i + 1));
  const product: Product = {
    a: tensor(device, x, [m, k]),
    b: tensor(device, w, [n, k]),
    add: withAdd ? tensor(device, add, [m, n]) : undefined,
    out: tensor(device, new Float32Array(m * n).fill(NaN), [m, n]),
    layout: "nt",
    m,
    n,
    k,
    batch: 1,
    ownB: false,
    alpha: 0.5,
  };
  const dims = { rows: m, n, k, alpha: 0.5, ...withAdd ? { add } : {} };
  return { product, expected: gemvRef(x, w, dims) };
}

const SIZES = [[1, 1, 4], [1, 33, 132], [2, 70, 8], [3, 5, 1028], [4, 64, 512], [8, 131, 260]];

Deno.test("gemv() matches the reference, with edges", async () => {
  for (const [m, n, k] of SIZES) {
    for (const add of [false, true]) {
      const { product, expected } = operands(m, n, k, add);
      gemv(product);
      assertRelativeError(await product.out.read(), expected, 1e-6, `${m}x${n}x${k} ${add}`);
    }
  }
});

Deno.test("gemv() matches the reference with every number of columns on software Vulkan", async () => {
  if (shared.adapter.type !== "software") return;
  for (const [m, n, k] of SIZES) {
    for (const columns of [1, 4, 16]) {
      const { product, expected } = operands(m, n, k, true);
      texelGemv(product, columns);
      assertRelativeError(await product.out.read(), expected, 1e-6, `${m}x${n}x${k} ${columns}`);
    }
  }
});

Deno.test("gemv() matches the reference as a GPU without subgroups runs it", async () => {
  const { gpu, description } = await openAdapter((await findAdapter())!);
  using device = new Device(gpu, { ...description, type: "gpu", subgroups: false });
  for (const [m, n, k] of SIZES) {
    const { product, expected } = operands(m, n, k, true, device);
    gemv(product);
    assertRelativeError(await product.out.read(), expected, 1e-6, `${m}x${n}x${k}`);
  }
});

Deno.test("matmul() takes gemv for a few rows, and differentiates through it", async () => {
  const [m, n, k] = [3, 20, 12];
  assertEquals(chooseVariant(operands(m, n, k, false).product), "gemv");
  const { product, expected } = operands(m, n, k, true);
  runProduct(product, "gemv");
  assertRelativeError(await product.out.read(), expected, 1e-6);
  await checkOp(
    [
      { data: randomNumbers(m * k, 4), shape: [1, m, k] },
      { data: randomNumbers(n * k, 5), shape: [n, k] },
      { data: randomNumbers(m * n, 6), shape: [1, m, n] },
    ],
    (x, w, add) => matmul(x, w, { transposeB: true, alpha: 2, add }),
    (x, w, add) => gemvRef(x, w, { rows: m, n, k, alpha: 2, add }),
  );
});

Deno.test("fitsGemv() refuses many rows, batches, other layouts and odd K", () => {
  const { product } = operands(8, 4, 8, false);
  assert(fitsGemv(product));
  for (
    const change of [{ m: 9 }, { batch: 2 }, { layout: "nn" }, { layout: "tt" }, { k: 6 }] as const
  ) {
    assert(!fitsGemv({ ...product, ...change }), JSON.stringify(change));
  }
});

Deno.test("gemv() writes nothing past the result", async () => {
  const out = empty(shared, [16]);
  shared.write(out, new Float32Array(16).fill(7));
  const { product } = operands(1, 5, 8, false);
  gemv({ ...product, out });
  assertEquals((await out.read()).slice(5), new Float32Array(11).fill(7));
});
