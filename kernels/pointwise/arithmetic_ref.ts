/** The specification of arithmetic.ts: naive loops in float64. */
export function arithmeticRef(
  op: "add" | "sub" | "mul" | "div",
  a: ArrayLike<number>,
  aShape: readonly number[],
  b: ArrayLike<number>,
  bShape: readonly number[],
): { data: Float64Array; shape: number[] } {
  const rank = Math.max(aShape.length, bShape.length);
  const pad = (shape: readonly number[]) => [...new Array(rank - shape.length).fill(1), ...shape];
  const p = pad(aShape);
  const q = pad(bShape);
  const shape = p.map((length, axis) => Math.max(length, q[axis]));
  const data = new Float64Array(shape.reduce((x, y) => x * y, 1));
  const at = (values: ArrayLike<number>, own: number[], index: number[]) => {
    let offset = 0;
    own.forEach((length, axis) => offset = offset * length + (length === 1 ? 0 : index[axis]));
    return values[offset];
  };
  for (let i = 0; i < data.length; i++) {
    const index = new Array<number>(rank);
    let rest = i;
    for (let axis = rank - 1; axis >= 0; axis--) {
      index[axis] = rest % shape[axis];
      rest = Math.floor(rest / shape[axis]);
    }
    const x = at(a, p, index);
    const y = at(b, q, index);
    data[i] = op === "add" ? x + y : op === "sub" ? x - y : op === "mul" ? x * y : x / y;
  }
  return { data, shape };
}
