import { leadingColumns } from "../../../train/adapters/qr.ts";
import { assertAllClose, assertEquals } from "../../assert.ts";
import { randomNumbers } from "../../device.ts";

const CLOSE = { relative: 0, absolute: 1e-12 };

for (const [rows, columns, r] of [[1, 1, 1], [3, 5, 2], [5, 3, 3], [40, 24, 8], [24, 40, 24]]) {
  Deno.test(`leadingColumns(): ${r} of a ${rows} × ${columns} matrix`, () => {
    const w = randomNumbers(rows * columns, rows + columns);
    const { a, b } = leadingColumns(w, rows, columns, r);
    const dot = (i: number, j: number) => {
      let sum = 0;
      for (let k = 0; k < rows; k++) sum += b[k * r + i] * b[k * r + j];
      return sum;
    };
    for (let i = 0; i < r; i++) {
      for (let j = 0; j < r; j++) {
        assertAllClose([dot(i, j)], [i === j ? 1 : 0], CLOSE);
        if (j < i) assertEquals(a[i * columns + j], 0);
      }
    }
    // The first r columns of Q · R are those of W; the rest of R is Qᵀ · W.
    for (let k = 0; k < columns; k++) {
      for (let i = 0; k < r && i < rows; i++) {
        let sum = 0;
        for (let j = 0; j < r; j++) sum += b[i * r + j] * a[j * columns + k];
        assertAllClose([sum], [w[i * columns + k]], CLOSE);
      }
      for (let j = 0; j < r; j++) {
        let sum = 0;
        for (let i = 0; i < rows; i++) sum += b[i * r + j] * w[i * columns + k];
        assertAllClose([a[j * columns + k]], [sum], CLOSE);
      }
    }
  });
}

Deno.test("leadingColumns() has the signs of LAPACK, and takes columns of zeros", () => {
  // torch.linalg.qr(torch.tensor([[3., 1.], [4., 2.]], dtype=torch.float64))
  const { a, b } = leadingColumns([3, 1, 4, 2], 2, 2, 2);
  assertAllClose(b, [-0.6, -0.8, -0.8, 0.6], CLOSE);
  assertAllClose(a, [-5, -2.2, 0, 0.4], CLOSE);
  const zeros = leadingColumns([0, 1, 0, 1], 2, 2, 1);
  assertAllClose([...zeros.a, ...zeros.b], [0, 1, 1, 0], CLOSE);
});
