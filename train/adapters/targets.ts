/**
 * Which layers an adapter goes on, by PEFT's rules.
 *
 * @module
 */
import { nearest } from "../../core/nearest.ts";

/** "all-linear", a regular expression that matches whole paths, or a list of paths and their ends. */
export type Targets = string | readonly string[];

/** What narrows targets down. */
export interface TargetLimits {
  /** Layers that are left out, in the same way as targets are named. */
  readonly excludeModules?: Targets;
  /** The numbers of the blocks that targets of a list may lie in; with none, all. */
  readonly layersToTransform?: readonly number[];
  /** The names that stand before a block's number; with none, any. */
  readonly layersPattern?: readonly string[];
  /** Ends of the paths of modules that are trained whole: nothing in them is a target. */
  readonly modulesToSave?: readonly string[];
}

/** The word for every linear layer but the output layer, in PEFT and here. */
export const ALL_LINEAR = "all-linear";

/** The last part of a layer's path: `q_proj`. */
export function lastName(path: string): string {
  return path.slice(path.lastIndexOf(".") + 1);
}

/** The last parts of layers' paths, each once. */
export function lastNames(paths: Iterable<string>): string[] {
  return [...new Set([...paths].map(lastName))];
}

/** A regular expression out of an option or a file, which may be in Python's dialect. */
function expression(source: string, what: string, [before, behind] = ["", ""]): RegExp {
  try {
    return new RegExp(`^${before}(?:${source})${behind}$`);
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

/** Whether the target of a list lies in one of the chosen blocks. */
function isInLayers(path: string, layers: readonly number[], patterns: readonly string[]): boolean {
  if (layers.length === 0) return true;
  // The first number in the path counts: an expert's in a mixture stands behind it.
  const sources = patterns.length === 0
    ? [String.raw`.*?\.[^.]*`]
    : patterns.map((pattern) => String.raw`(?:.*?\.)?(?:${pattern})`);
  for (const source of sources) {
    const found = expression(source, "the layers pattern", ["", String.raw`\.(\d+)\..*`]).exec(
      path,
    );
    if (found) return layers.includes(Number(found.at(-1)));
  }
  return false;
}

/** The paths that targets mean before anything is left out. A list's entries that mean none are passed over, as PEFT does. */
function meantBy(paths: readonly string[], targets: Targets, what: string): string[] {
  if (typeof targets !== "string") {
    return paths.filter((path) => targets.some((entry) => isMeant(path, entry)));
  }
  const whole = expression(targets, what);
  return paths.filter((path) => whole.test(path));
}

/** The paths that targets mean, by PEFT's rules. */
export function selectTargets(
  paths: readonly string[],
  targets: Targets,
  limits: TargetLimits = {},
): string[] {
  const { excludeModules = [], layersToTransform = [], layersPattern = [] } = limits;
  const excluded = new Set(meantBy(paths, excludeModules, "the modules to exclude"));
  const saved = (limits.modulesToSave ?? []).map((entry) =>
    expression(entry, "the modules to save", [String.raw`(?:.*\.)?`, String.raw`(?:\..*)?`])
  );
  const meant = targets === ALL_LINEAR ? paths : meantBy(paths, targets, "the target modules");
  return meant.filter((path) => {
    if (excluded.has(path) || saved.some((own) => own.test(path))) return false;
    const isNamed = typeof targets !== "string" && targets.includes(path);
    return isNamed || isInLayers(path, layersToTransform, layersPattern);
  });
}

/** Throws if a limit says nothing about these layers, which is a slip of the pen. */
function checkLimits(paths: readonly string[], limits: TargetLimits): void {
  const { excludeModules = [] } = limits;
  const entries = typeof excludeModules === "string"
    ? [excludeModules]
    : excludeModules.map((entry) => [entry]);
  for (const entry of entries) {
    if (meantBy(paths, entry, "the modules to exclude").length > 0) continue;
    throw new RangeError(
      `Cannot choose layers: found none that "${entry}" in excludeModules means, wanted ${
        lastNames(paths).join(", ")
      }, or a path such as ${paths[0] ?? "none"}`,
    );
  }
}

/**
 * The paths that targets mean; unlike in PEFT, every entry of a list must mean at least one, also of those to leave out.
 *
 * @throws {RangeError} if an entry, or the expression, means no layer
 * @throws {SyntaxError} if the expression cannot be read
 */
export function matchTargets(
  paths: readonly string[],
  targets: Targets,
  limits: TargetLimits = {},
): string[] {
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
  checkLimits(paths, limits);
  const chosen = selectTargets(paths, targets, limits);
  if (chosen.length > 0) return chosen;
  if (selectTargets(paths, targets).length > 0) {
    throw new RangeError(
      `Cannot choose layers: found that excludeModules, layersToTransform or modulesToSave leave none of those that ${
        JSON.stringify(targets)
      } means; leave fewer out`,
    );
  }
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

/**
 * Throws if a pattern names none of the layers that an adapter goes on, which is a slip of the pen: it would do nothing.
 *
 * @param paths the layers of the adapter
 * @param patterns values by pattern, as `valueFor` takes them
 * @param option what the patterns were given as
 */
export function checkPatterns(
  paths: readonly string[],
  patterns: Readonly<Record<string, number>>,
  option: string,
): void {
  const unused = Object.keys(patterns).find((key) => !paths.some((path) => namesEnd(path, key)));
  if (unused === undefined) return;
  const [name] = lastNames(paths);
  throw new RangeError(
    `Cannot choose layers: found none of the adapter's that "${unused}" in ${option} means, wanted the end of a path, ` +
      `such as "${name}", or a regular expression for it, such as "layers\\\\.0\\\\..*" for a block`,
  );
}

/** Whether a pattern means a layer: it is a regular expression for the path, or for its end behind a dot. */
function namesEnd(path: string, pattern: string): boolean {
  return expression(pattern, "the pattern", ["(?:.*\\.)?", ""]).test(path);
}

/** A layer's own value where a pattern names it, else the common one. The first pattern counts, as in PEFT. */
export function valueFor(
  path: string,
  patterns: Readonly<Record<string, number>>,
  common: number,
): number {
  const found = Object.keys(patterns).find((key) => namesEnd(path, key));
  return found === undefined ? common : patterns[found];
}
