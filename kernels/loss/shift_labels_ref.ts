/** The specification of shift_labels.ts. */
export function shiftLabelsRef(labels: ArrayLike<number>, columns: number): number[] {
  return Array.from(labels, (_, i) => (i + 1) % columns === 0 ? -100 : labels[i + 1]);
}
