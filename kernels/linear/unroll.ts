/** Text repeated with an index: what the generators unroll loops with. */
export function unroll(count: number, line: (index: number) => string): string {
  return Array.from({ length: count }, (_, index) => line(index)).join("\n");
}
