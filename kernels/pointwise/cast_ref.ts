/** The specification of cast.ts: the nearest value of the type, ties to even. */
export function castRef(x: ArrayLike<number>, dtype: "f32" | "f16"): Float64Array {
  return Float64Array.from(x, dtype === "f16" ? Math.f16round : Math.fround);
}
