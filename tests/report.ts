/** Counts the tests in a JUnit report, and does not believe a report that the process belies. */

/** How many tests passed and failed. */
export interface Tally {
  readonly passed: number;
  readonly failed: number;
}

/**
 * Reads the report of a `deno test` process.
 *
 * @param xml the report's text; empty where the process died before it wrote one
 * @param code the process's exit code
 * @returns the counts, and what is wrong with the process where the counts do not tell: that counts as one more failure
 */
export function readReport(xml: string, code: number): { tally: Tally; fault: string | null } {
  const suites = xml.match(/<testsuites\b[^>]*>/)?.[0];
  if (!suites || !xml.includes("</testsuites>")) {
    return {
      tally: { passed: 0, failed: 1 },
      fault: `ended with code ${code} and left no whole report; what passed is not counted`,
    };
  }
  // Attributes and cases are both there; the larger count of failures wins, so that a change of Deno's format cannot hide one.
  const attribute = (name: string) => Number(suites.match(new RegExp(`\\b${name}="(\\d+)"`))?.[1]);
  const cases = [...xml.matchAll(/<testcase\b[^>]*?(?:\/>|>([\s\S]*?)<\/testcase>)/g)];
  const counted = { failed: 0, skipped: 0 };
  for (const [, body = ""] of cases) {
    if (/<(?:failure|error)\b/.test(body)) counted.failed++;
    else if (/<skipped\b/.test(body)) counted.skipped++;
  }
  const stated = (attribute("failures") || 0) + (attribute("errors") || 0);
  const failed = Math.max(counted.failed, stated);
  const passed = Math.max(0, cases.length - counted.skipped - failed);
  if (code !== 0 && failed === 0) {
    return {
      tally: { passed, failed: 1 },
      fault:
        `ended with code ${code}, though its report has no failure (a crash, a type error, or a file that threw)`,
    };
  }
  return { tally: { passed, failed }, fault: null };
}
