/** The specification of grad_norm.ts. */
export function gradNormRef(grad: ArrayLike<number>): number {
  let squares = 0;
  for (let i = 0; i < grad.length; i++) squares += grad[i] * grad[i];
  return Math.sqrt(squares);
}
