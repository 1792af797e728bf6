import { sizeOf } from "../../../core/shape.ts";
import { empty, tensor } from "../../../core/tensor.ts";
import { matmul, runProduct } from "../../../kernels/linear/matmul.ts";
import { matmulRef } from "../../../kernels/linear/matmul_ref.ts";
import { fitsNarrow } from "../../../kernels/linear/narrow.ts";
import type { Layout, Product } from "../../../kernels/linear/product.ts";
import { fitsTexels } from "../../../kernels/linear/texel_tile.ts";
import { fitsTiles, tileMatmul } from "../../../kernels/linear/tile.ts";
import {
  chooseTilePlan,
  chunkOf,
  TILE_SHAPES,
  tilesOf,
} from "../../../kernels/linear/tile_plan.ts";
import { packedOperand } from "../../../kernels/linear/tile_packed.ts";
import { memoryOf } from "../../../kernels/linear/tile_source.ts";
import { quantizeFourBit } from "../../../kernels/quant/four_bit_quantize.ts";
import { assert, assertEquals, assertRelativeError, assertThrows } from "../../assert.ts";
import { device, randomNumbers, randomTensor } from "../../device.ts";
import { checkOp } from "../../gradient.ts";

function operands(layout: Layout, m: number, n: number, k: number) {
  const a = randomNumbers(m * k, 1);
  const b = randomNumbers(n * k, 2);
  const add = randomNumbers(m * n, 3);
  const product = (withAdd: boolean): Product => ({
    a: tensor(device, a, layout[0] === "t" ? [k, m] : [m, k]),
    b: tensor(device, b, layout[1] === "t" ? [n, k] : [k, n]),
    add: withAdd ? tensor(device, add, [m, n]) : undefined,
    out: empty(device, [m, n]),
    layout,
    m,
    n,
    k,
    batch: 1,
    ownB: false,
    alpha: 0.5,
  });
  const expected = (withAdd: boolean) =>
    matmulRef(a, b, {
      m,
      n,
      k,
      transposeA: layout[0] === "t",
      transposeB: layout[1] === "t",
      alpha: 0.5,
      ...withAdd ? { add } : {},
    });
  return { product, expected };
}

const SIZES = [[1, 4, 4], [3, 8, 12], [17, 20, 36], [64, 64, 32], [70, 132, 100], [130, 124, 36], [
  130,
  24,
  8,
], [132, 124, 33]];

// Time here is compilation, not arithmetic: sizes are free, but every tile kernel takes half a second on two cores. So `add` and the
// layout are paired, differently in the two tests, and not crossed.
Deno.test("matmul() matches the reference in every variant and layout, with edges", async () => {
  for (const layout of ["nn", "nt", "tn", "tt"] as const) {
    for (const [m, n, k] of SIZES) {
      const { product, expected } = operands(layout, m, n, k);
      for (const add of [false, true]) {
        for (const variant of ["any", "texels", "tiles"] as const) {
          const p = product(add);
          if (variant === "texels" && !fitsTexels(p)) continue;
          if (variant === "tiles" && (!fitsTiles(p) || add !== (layout === "nt"))) continue;
          runProduct(p, variant);
          const what = `${variant} ${layout} ${m}x${n}x${k}${add ? " + add" : ""}`;
          assertRelativeError(await p.out.read(), expected(add), 1e-6, what);
        }
      }
    }
  }
});

Deno.test("matmul() matches the reference with every tile shape, whole and in parts", async () => {
  // With edges and a ragged K, and with neither; turn by turn.
  const sizes = [[140, 136, 40], [128, 128, 256]];
  let turn = 0;
  for (const shape of TILE_SHAPES) {
    // Operands are loaded each on their own: nt and tn have both ways of both. Large tiles compile for seconds.
    const layouts = shape.rows === 128 ? ["nt", "tn"] as const : ["nn", "nt", "tn"] as const;
    for (const layout of layouts) {
      const [m, n, k] = sizes[turn++ % 2];
      const { product, expected } = operands(layout, m, n, k);
      const tiles = tilesOf(product(false), shape);
      // No tile in parts; the last one; all.
      for (const [whole, splits] of [[tiles, 1], [tiles - 1, 2], [0, 5]]) {
        const add = layout !== "nt";
        const p = product(add);
        tileMatmul(p, undefined, undefined, { shape, whole, splits });
        const what = `${layout} ${Object.values(shape)} ${m}x${n}x${k} ${whole} ${splits}`;
        assertRelativeError(await p.out.read(), expected(add), 1e-6, what);
      }
    }
  }
});

Deno.test("matmul() takes tiles where rows are not multiples of four floats", async () => {
  const check = async (layout: Layout, size: number[], rows: number, splits: number) => {
    const [m, n, k] = size;
    // The first shapes with so many rows and columns: one copy in workgroup memory, two copies.
    const shape = TILE_SHAPES.find((s) => s.rows === rows && s.columns === rows && !s.quads)!;
    const { product, expected } = operands(layout, m, n, k);
    const p = product(layout === "nt");
    const whole = splits === 1 ? tilesOf(p, shape) : 0;
    tileMatmul(p, undefined, undefined, { shape, whole, splits });
    const what = `${layout} ${m}x${n}x${k} in ${splits}`;
    assertRelativeError(await p.out.read(), expected(layout === "nt"), 1e-6, what);
  };
  for (const layout of ["nn", "nt", "tn"] as const) {
    // Columns, K, both and all; the rows of A alone, with a K that is shared.
    for (const size of [[68, 129, 64], [68, 132, 35], [70, 131, 133]]) {
      await check(layout, size, 64, 1);
    }
    await check(layout, layout === "tn" ? [33, 64, 96] : [33, 64, 97], 64, 2);
  }
  const fits = (layout: Layout, m: number, n: number, k: number) => fitsTiles({ layout, m, n, k });
  assertEquals(fits("nt", 2048, 50_257, 768), true);
  assertEquals(fits("nt", 8, 7, 9), false);
});

Deno.test("matmul() matches the reference with narrow results", async () => {
  for (const layout of ["nn", "nt", "tn"] as const) {
    for (const [m, n, k] of [[40, 16, 260], [16, 72, 1000], [4, 40, 132], [36, 8, 516]]) {
      const { product, expected } = operands(layout, m, n, k);
      for (const add of [false, true]) {
        const p = product(add);
        assertEquals(fitsNarrow(p), true);
        runProduct(p, "narrow");
        assertRelativeError(await p.out.read(), expected(add), 1e-6, `${layout} ${m}x${n}x${k}`);
      }
    }
  }
  const fits = (layout: Layout, m: number, n: number, k: number) =>
    fitsNarrow({ layout, m, n, k, batch: 1 });
  assertEquals(fits("nt", 64, 20, 512), false);
  assertEquals(fits("nt", 64, 16, 60), false);
  assertEquals(fits("nt", 64, 16, 2048), false);
  assertEquals(fits("nt", 8192, 16, 512), false);
  assertEquals(fits("nt", 64, 6, 512), false);
  assertEquals(fits("tn", 6, 64, 512), false);
});

Deno.test("matmul() computes batches in tiles, whole and in parts", async () => {
  const [batch, m, n, k] = [3, 40, 68, 36];
  const a = randomNumbers(batch * m * k, 11);
  const b = randomNumbers(batch * n * k, 12);
  const add = randomNumbers(batch * m * n, 13);
  const shape = TILE_SHAPES.find(({ rows, columns }) => rows === 64 && columns === 16)!;
  for (const ownB of [false, true]) {
    const product: Product = {
      a: tensor(device, a, [batch, m, k]),
      b: tensor(device, b, [batch, k, n]),
      add: tensor(device, add, [batch, m, n]),
      out: empty(device, [batch, m, n]),
      layout: "nn",
      m,
      n,
      k,
      batch,
      ownB,
      alpha: 3,
    };
    tileMatmul(product, undefined, undefined, { shape, whole: 4, splits: 2 });
    const expected = Array.from(
      { length: batch },
      (_, i) =>
        matmulRef(a.subarray(i * m * k), b.subarray(ownB ? i * n * k : 0), {
          m,
          n,
          k,
          alpha: 3,
          add: add.subarray(i * m * n),
        }),
    );
    assertRelativeError(await product.out.read(), expected.flatMap((x) => [...x]), 1e-6);
  }
});

Deno.test("matmul() plans that every step along K is taken once, by as few workgroups as work", () => {
  const sizes = [
    [1, 4, 4],
    [64, 192, 64],
    [512, 4096, 4096],
    [512, 11_008, 4096],
    [
      2048,
      576,
      49_152,
    ],
    [2048, 8, 576],
    [8, 2048, 2048],
    [2048, 2048, 16],
    [300, 300, 30_000],
  ];
  for (const [m, n, k] of sizes) {
    for (const batch of [1, 3]) {
      const plan = chooseTilePlan({ m, n, k, batch });
      const chunk = chunkOf(k, plan.splits, plan.shape);
      assertEquals(chunk * plan.splits >= k && chunk * (plan.splits - 1) < k, true);
      const tiles = tilesOf({ m, n, batch }, plan.shape);
      assertEquals(plan.splits === 1 ? plan.whole === tiles : plan.whole < tiles, true);
    }
  }
  // A GPU that is full does not share tiles; one that is not does.
  assertEquals(chooseTilePlan({ m: 2048, n: 49_152, k: 576, batch: 1 }).whole > 4000, true);
  assertEquals(chooseTilePlan({ m: 64, n: 64, k: 4096, batch: 1 }).splits > 4, true);
  // What is long is read once: a result of 17 to 32 rows or columns has one tile across.
  const tileOf = (m: number, n: number, k: number) => chooseTilePlan({ m, n, k, batch: 1 }).shape;
  for (const r of [8, 16, 24, 32, 64]) {
    assert(tileOf(2048, r, 4096).columns >= r);
    assert(tileOf(r, 4096, 2048).rows >= r);
  }
  // Where x has few rows, a second dispatch is avoided; where the GPU has enough to do, it is not.
  assertEquals(chooseTilePlan({ m: 128, n: 576, k: 576, batch: 1 }).splits, 1);
  assert(chooseTilePlan({ m: 2048, n: 576, k: 576, batch: 1 }).splits > 1);
  assert(chooseTilePlan({ layout: "tn", m: 16, n: 576, k: 2048, batch: 1 }).splits > 1);
});

Deno.test("matmul() plans take no more workgroup memory than the device has", () => {
  // What WebGPU promises everywhere, what Apple's and Microsoft's interfaces have, and NVIDIA's.
  for (const memory of [16_384, 32_768, 49_152]) {
    for (const m of [16, 64, 512, 8192]) {
      for (const packed of [false, true]) {
        const { shape } = chooseTilePlan({ m, n: 1536, k: 576, batch: 1, packed, memory });
        assert(memoryOf(shape) <= memory, `${m} ${packed} ${memory}`);
      }
    }
  }
  const tight = chooseTilePlan({ m: 512, n: 4096, k: 4096, batch: 1, memory: 32_768 - 64 });
  assert(memoryOf(tight.shape) <= 32_768 - 64);
  const large = chooseTilePlan({ m: 8192, n: 576, k: 576, batch: 1, memory: 49_152 });
  assert(memoryOf(large.shape) > 32_768);
});

Deno.test("matmul() takes 4-bit weights in every tile shape, whole and in parts", async () => {
  const [m, rows, columns] = [40, 72, 136];
  const w = await quantizeFourBit(randomTensor([rows, columns], 9));
  const dense = await w.dequantize().read();
  const { format } = w.asFactor().tiled!();
  let large = 0;
  for (const shape of TILE_SHAPES) {
    const layouts = shape.rows === 128
      ? [large++ % 2 === 0 ? "nt" : "nn"] as const
      : ["nt", "nn"] as const;
    for (const layout of layouts) {
      const [n, k] = layout === "nt" ? [rows, columns] : [columns, rows];
      const x = randomNumbers(m * k, 10);
      const out = empty(device, [m, n]);
      const a = tensor(device, x, [m, k]);
      const sizes = { layout, m, n, k, batch: 1, ownB: false, alpha: 1, add: undefined };
      const split = layout === "nt";
      tileMatmul(
        { ...sizes, a, b: w.packed, out },
        packedOperand(format),
        format.bindings,
        { shape, whole: split ? 1 : tilesOf({ ...sizes }, shape), splits: split ? 2 : 1 },
      );
      const expected = matmulRef(x, dense, { m, n, k, transposeB: layout === "nt" });
      assertRelativeError(await out.read(), expected, 1e-6, `${layout} ${Object.values(shape)}`);
    }
  }
});

Deno.test("matmul() differentiates in every layout", async () => {
  for (const transposeA of [false, true]) {
    for (const transposeB of [false, true]) {
      const [m, n, k] = [5, 8, 12];
      await checkOp(
        [
          { data: randomNumbers(m * k, 4), shape: transposeA ? [k, m] : [m, k] },
          { data: randomNumbers(n * k, 5), shape: transposeB ? [n, k] : [k, n] },
          { data: randomNumbers(m * n, 6), shape: [m, n] },
        ],
        (a, b, add) => matmul(a, b, { transposeA, transposeB, alpha: 2, add }),
        (a, b, add) => matmulRef(a, b, { m, n, k, transposeA, transposeB, alpha: 2, add }),
      );
    }
  }
});

Deno.test("matmul() multiplies batches, with one B for all or one for each", async () => {
  const [batch, m, n, k] = [3, 5, 8, 12];
  const reference = (own: boolean) => (a: ArrayLike<number>, b: ArrayLike<number>) => {
    const out = new Float64Array(batch * m * n);
    for (let i = 0; i < batch; i++) {
      const [x, y] = [Float64Array.from(a), Float64Array.from(b)];
      const part = matmulRef(x.subarray(i * m * k), own ? y.subarray(i * n * k) : y, { m, n, k });
      out.set(part, i * m * n);
    }
    return out;
  };
  const a = { data: randomNumbers(batch * m * k, 7), shape: [batch, m, k] };
  for (const shape of [[k, n], [batch, k, n]]) {
    const b = { data: randomNumbers(sizeOf(shape), 8), shape };
    await checkOp([a, b], (x, y) => matmul(x, y), reference(shape.length === 3));
  }
});

Deno.test("matmul() refuses shapes that do not fit, and names them", () => {
  assertThrows(
    () => matmul(randomTensor([4, 8], 1), randomTensor([7, 3], 2)),
    RangeError,
    "Cannot multiply [4,8] by [7,3]: inner sizes are 8 and 7",
  );
  assertThrows(
    () => matmul(randomTensor([2, 4, 8], 1), randomTensor([3, 8, 4], 2)),
    RangeError,
    "the leading axes differ",
  );
  assertEquals(matmul(randomTensor([2, 4, 8], 1), randomTensor([8, 4], 2)).shape, [2, 4, 4]);
});
