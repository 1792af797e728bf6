/** The specification of silu_gate.ts. */
export function siluGateRef(gate: ArrayLike<number>, up: ArrayLike<number>): Float64Array {
  return Float64Array.from(gate, (x, i) => x / (1 + Math.exp(-x)) * up[i]);
}
