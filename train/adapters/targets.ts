/**
 * Which layers an adapter goes on, by PEFT's rules.
 *
 * @module
 */
import { nearest } from "../../core/nearest.ts";

/** "all-linear", a regular expression that matches whole paths, or a list of paths and their ends. */
export type Targets = string | readonly string[];

/** The word for every linear layer but the output layer, in PEFT and here. */
export const ALL_LINEAR = "all-linear";

/** The last part of a layer's path: `q_proj`. */
function lastName(path: string): string {
  return path.slice(path.lastIndexOf(".") + 1);
}

/** The last parts of layers' paths, each once. */
export function lastNames(paths: Iterable<string>): string[] {
  return [...new Set([...paths].map(lastName))];
}

/** A regular expression out of an option or a file, which may be in Python's dialect. */
function expression(source: string, before: string, what: string): RegExp {
  try {
    return new RegExp(`^${before}(?:${source})$`);
  } catch (error) {
    throw new SyntaxError(
      `Cannot read ${what} "${source}": it is not a regular expression of JavaScript (${
        (error as Error).message
      })`,
      { cause: error },
    );
  }
}

/** Whether an entry of a list means a layer: it is the path, or its end behind a dot. */
function isMeant(path: string, entry: string): boolean {
  return path === entry || path.endsWith(`.${entry}`);
}

/** The paths that targets mean. A list's entries that mean none are passed over, as PEFT does. */
export function selectTargets(paths: readonly string[], targets: Targets): string[] {
  if (targets === ALL_LINEAR) return [...paths];
  if (typeof targets === "string") {
    const whole = expression(targets, "", "the target modules");
    return paths.filter((path) => whole.test(path));
  }
  return paths.filter((path) => targets.some((entry) => isMeant(path, entry)));
}

/**
 * The paths that targets mean; unlike in PEFT, every entry must mean at least one.
 *
 * @throws {RangeError} if an entry, or the expression, means no layer
 * @throws {SyntaxError} if the expression cannot be read
 */
export function matchTargets(paths: readonly string[], targets: Targets): string[] {
  const names = lastNames(paths);
  const wanted = `wanted ${names.join(", ")}, or a path such as ${paths[0] ?? "none"}`;
  if (typeof targets !== "string") {
    if (targets.length === 0) {
      throw new RangeError(`Cannot choose layers: found no target modules, ${wanted}`);
    }
    for (const entry of targets) {
      if (paths.some((path) => isMeant(path, entry))) continue;
      const near = nearest(entry, entry.includes(".") ? paths : [...names, ALL_LINEAR]);
      const hint = near === ALL_LINEAR
        ? `; for all layers pass "${ALL_LINEAR}" instead of a list`
        : near
        ? `; did you mean "${near}"?`
        : "";
      throw new RangeError(
        `Cannot choose layers: found no linear layer "${entry}", ${wanted}${hint}`,
      );
    }
  }
  const chosen = selectTargets(paths, targets);
  if (chosen.length > 0) return chosen;
  const near = typeof targets === "string" ? nearest(targets, [...names, ALL_LINEAR]) : null;
  const hint = near === null
    ? "a string is a regular expression for whole paths, pass names as a list"
    : near === ALL_LINEAR
    ? `did you mean "${near}"?`
    : `pass names as a list: ["${near}"]`;
  throw new RangeError(
    `Cannot choose layers: found none that "${targets}" matches, ${wanted}; ${hint}`,
  );
}

/** A layer's own value where a pattern names it, else the common one. The first pattern counts, as in PEFT. */
export function valueFor(
  path: string,
  patterns: Readonly<Record<string, number>>,
  common: number,
): number {
  const found = Object.keys(patterns).find((key) =>
    expression(key, "(?:.*\\.)?", "the pattern").test(path)
  );
  return found === undefined ? common : patterns[found];
}
