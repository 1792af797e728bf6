/** Assertions with @std/assert's names, over node:assert, and two for arrays of floats. */
import assertStrict from "node:assert/strict";

/** Throws unless `value` is truthy. */
export function assert(value: unknown, message?: string): asserts value {
  assertStrict.ok(value, message);
}

/** Throws unless both are deeply equal. */
export function assertEquals<T>(actual: T, expected: T, message?: string): void {
  assertStrict.deepEqual(actual, expected, message);
}

/** Throws unless `text` matches. */
export function assertMatch(text: string, pattern: RegExp): void {
  assertStrict.match(text, pattern);
}

/** Throws unless `body` throws an error of this class whose message contains `text`. */
export function assertThrows(
  body: () => unknown,
  // deno-lint-ignore no-explicit-any
  type: new (...args: any[]) => Error,
  text: string,
): Error {
  try {
    body();
  } catch (error) {
    checkError(error, type, text);
    return error as Error;
  }
  throw new assertStrict.AssertionError({ message: `Expected ${type.name} with "${text}"` });
}

/** The same for a promise. */
export async function assertRejects(
  body: () => Promise<unknown>,
  // deno-lint-ignore no-explicit-any
  type: new (...args: any[]) => Error,
  text: string,
): Promise<Error> {
  try {
    await body();
  } catch (error) {
    checkError(error, type, text);
    return error as Error;
  }
  throw new assertStrict.AssertionError({ message: `Expected ${type.name} with "${text}"` });
}

// deno-lint-ignore no-explicit-any
function checkError(error: unknown, type: new (...args: any[]) => Error, text: string): void {
  assertStrict.ok(error instanceof type, `Expected ${type.name}, got ${error}`);
  assertStrict.ok(
    error.message.includes(text),
    `Expected a message with "${text}", got "${error.message}"`,
  );
}

/** How far apart numbers may be: |actual − expected| ≤ absolute + relative · |expected|. */
export interface Tolerance {
  readonly relative?: number;
  readonly absolute?: number;
}

/** Throws unless arrays are equal within a tolerance; shows the first differences. */
export function assertAllClose(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  { relative = 1e-5, absolute = 1e-6 }: Tolerance = {},
  what = "array",
): void {
  assertEquals(actual.length, expected.length, `${what}: lengths differ`);
  const wrong: string[] = [];
  let count = 0;
  for (let i = 0; i < actual.length; i++) {
    const bound = absolute + relative * Math.abs(expected[i]);
    if (Math.abs(actual[i] - expected[i]) <= bound) continue;
    count++;
    if (wrong.length < 5) wrong.push(`[${i}] ${actual[i]}, expected ${expected[i]}`);
  }
  assertStrict.ok(
    count === 0,
    `${what}: ${count} of ${actual.length} differ\n  ${wrong.join("\n  ")}`,
  );
}

/** The largest difference, as a share of the largest expected magnitude. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let difference = 0;
  let largest = 0;
  for (let i = 0; i < expected.length; i++) {
    difference = Math.max(difference, Math.abs(actual[i] - expected[i]));
    largest = Math.max(largest, Math.abs(expected[i]));
  }
  return difference / (largest || 1);
}

/** Throws unless the largest difference is at most `bound` of the largest expected magnitude. NaN never passes. */
export function assertRelativeError(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  bound: number,
  what = "array",
): void {
  assertEquals(actual.length, expected.length, `${what}: lengths differ`);
  const error = relativeError(actual, expected);
  assertStrict.ok(error <= bound, `${what}: relative error ${error}, allowed ${bound}`);
}
