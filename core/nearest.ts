/**
 * The nearest name to a mistyped one.
 *
 * @module
 */

/** Single-letter edits, and swaps of neighbours, that turn `a` into `b` (Damerau and Levenshtein's distance). */
export function editDistance(a: string, b: string): number {
  let before: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1];
      row[j] = Math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (same ? 0 : 1));
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      if (swapped) row[j] = Math.min(row[j], before[j - 2] + 1);
    }
    before = last;
    last = row;
  }
  return last[b.length];
}

/** The candidate that was probably meant, or null: at most a third of its letters differ, or `name` begins it. */
export function nearest(name: string, candidates: Iterable<string>): string | null {
  let best: string | null = null;
  let bestDistance = Infinity;
  const typed = name.toLowerCase();
  for (const candidate of candidates) {
    const distance = editDistance(typed, candidate.toLowerCase());
    if (distance >= bestDistance || distance > Math.ceil(candidate.length / 3)) continue;
    if (distance >= candidate.length) continue; // another single letter is no likeness
    best = candidate;
    bestDistance = distance;
  }
  if (best !== null || typed.length < 2) return best;
  return [...candidates].find((candidate) => candidate.toLowerCase().startsWith(typed)) ?? null;
}
