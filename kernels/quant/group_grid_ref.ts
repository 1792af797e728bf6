/**
 * The specification of group_grid.ts.
 *
 * @module
 */

/** The least and the largest number of each group along rows of so many columns, one after the other. */
export function groupRangesRef(
  x: ArrayLike<number>,
  columns: number,
  groupSize: number,
): number[] {
  const ranges: number[] = [];
  for (let row = 0; row < x.length; row += columns) {
    for (let from = 0; from < columns; from += groupSize) {
      let [low, high] = [Infinity, -Infinity];
      for (let i = from; i < Math.min(from + groupSize, columns); i++) {
        low = Math.min(low, x[row + i]);
        high = Math.max(high, x[row + i]);
      }
      ranges.push(low, high);
    }
  }
  return ranges;
}
