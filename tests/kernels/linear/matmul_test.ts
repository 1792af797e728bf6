import { sizeOf } from "../../../core/shape.ts";
import { empty, tensor } from "../../../core/tensor.ts";
import { matmul, runProduct } from "../../../kernels/linear/matmul.ts";
import { matmulRef } from "../../../kernels/linear/matmul_ref.ts";
import type { Layout, Product } from "../../../kernels/linear/product.ts";
import { fitsTexels } from "../../../kernels/linear/texel_tile.ts";
import { fitsTiles, tileMatmul, type TileShape } from "../../../kernels/linear/tile.ts";
import { assertEquals, assertRelativeError, assertThrows } from "../../assert.ts";
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
]];

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

Deno.test("matmul() matches the reference with every tile shape that a GPU uses", async () => {
  const shapes: TileShape[] = [
    { rows: 128, columns: 128, depth: 16, threadRows: 8, threadColumns: 8 },
    { rows: 64, columns: 64, depth: 16, threadRows: 4, threadColumns: 4 },
    { rows: 16, columns: 64, depth: 16, threadRows: 4, threadColumns: 4 },
  ];
  // With edges and a ragged K, and with neither; turn by turn.
  const sizes = [[140, 136, 40], [128, 128, 64]];
  let turn = 0;
  for (const shape of shapes) {
    for (const layout of ["nn", "nt", "tn"] as const) {
      const [m, n, k] = sizes[turn++ % 2];
      const { product, expected } = operands(layout, m, n, k);
      const add = layout !== "nt";
      const p = product(add);
      tileMatmul(p, undefined, undefined, shape);
      const what = `${layout} ${Object.values(shape)} ${m}x${n}x${k}`;
      assertRelativeError(await p.out.read(), expected(add), 1e-6, what);
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
