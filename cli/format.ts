/** Numbers, tables and curves as people read them. Nothing here prints. */
import asciichart from "asciichart";
import Table from "cli-table3";
import { styleText } from "node:util";

/** `1234567` bytes as `1.23 MB`, in powers of 1000. */
export function bytes(count: number): string {
  if (Math.abs(count) < 1000) return `${count} B`;
  const units = ["kB", "MB", "GB", "TB"];
  let value = count / 1000;
  let unit = 0;
  // 999.5 and more would round to 1000 of its unit.
  while (Math.abs(value) >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${significant(value)} ${units[unit]}`;
}

/** `1234567` as `1.23 M`; below 1000 as it is. */
export function count(value: number): string {
  if (Math.abs(value) < 1000) return Number.isInteger(value) ? `${value}` : significant(value);
  return bytes(value).replace(/B$/, "").replace("G", "B").trim();
}

/** `1234567` as `1,234,567`. */
export function grouped(value: number): string {
  return value.toLocaleString("en-US");
}

/** `1 row`, `2 rows`. */
export function counted(value: number, what: string): string {
  return `${value} ${what}${value === 1 ? "" : "s"}`;
}

/** A share from 0 to 1 as `12.3 %`; a small share keeps two digits. */
export function percent(share: number): string {
  const value = share * 100;
  return `${value !== 0 && Math.abs(value) < 1 ? value.toPrecision(2) : value.toFixed(1)} %`;
}

/** Seconds as `0.42 s`, `12.3 s`, `2 min 05 s` or `1 h 02 min`. */
export function duration(seconds: number): string {
  if (seconds < 59.95) return `${seconds < 10 ? seconds.toFixed(2) : seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const two = (value: number) => String(value).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  const minutes = Math.round(seconds / 60);
  return `${Math.floor(minutes / 60)} h ${two(minutes % 60)} min`;
}

/** A number with three significant digits, and no exponent between 0.001 and a million. */
export function significant(value: number): string {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return size >= 99.95 ? String(Math.round(value)) : value.toPrecision(3);
}

/** A colour or weight that a text can have. */
export type Style = "bold" | "dim" | "red" | "green" | "yellow" | "cyan";

/** Text in a colour where stdout is a terminal and NO_COLOR is not set; elsewhere the text as it is. */
export function paint(style: Style, text: string): string {
  return isPlain() ? text : styleText(style, text, { validateStream: false });
}

function isPlain(): boolean {
  return !Deno.stdout.isTerminal() || (Deno.env.get("NO_COLOR") ?? "") !== "";
}

/** A cell: numbers stand to the right, as does text in a column of `right`. */
export type Cell = string | number | null | undefined;

/** How a table looks. */
export interface TableLook {
  /** Columns (from 0) whose text stands to the right; columns of numbers do so anyway. */
  readonly right?: readonly number[];
  /** With lines around cells; by default where stdout is a terminal. */
  readonly boxed?: boolean;
}

/** No lines, two spaces between columns: easy to read in a log and to cut up with awk. */
const NO_LINES = Object.fromEntries(
  ["top", "top-mid", "top-left", "top-right", "bottom", "bottom-mid", "bottom-left"]
    .concat(["bottom-right", "left", "left-mid", "mid", "mid-mid", "right", "right-mid"])
    .map((place) => [place, ""]).concat([["middle", "  "]]),
);

/** A table as text, without a newline at its end. */
export function table(
  head: readonly string[],
  rows: readonly (readonly Cell[])[],
  { right = [], boxed = Deno.stdout.isTerminal() }: TableLook = {},
): string {
  const isRight = (column: number) =>
    right.includes(column) ||
    rows.some((row) => typeof row[column] === "number") &&
      rows.every((row) => typeof row[column] !== "string");
  const plain = { "padding-left": 0, "padding-right": 0 };
  const lines = new Table({
    head: head.map((name) => boxed ? paint("bold", name) : name),
    colAligns: head.map((_, column) => isRight(column) ? "right" : "left"),
    style: { head: [], border: [], compact: true, ...(boxed ? {} : plain) },
    ...(boxed ? {} : { chars: NO_LINES }),
  });
  for (const row of rows) lines.push(head.map((_, column) => String(row[column] ?? "")));
  return lines.toString().split("\n").map((line) => line.trimEnd()).join("\n");
}

/** One row of a table that is printed as it grows: cells padded to widths, and to the right where a width is negative. */
export function row(cells: readonly string[], widths: readonly number[]): string {
  const padded = cells.map((cell, column) => {
    const width = widths[column];
    return width < 0 ? cell.padStart(-width) : cell.padEnd(width);
  });
  return padded.join("  ").trimEnd();
}

/** How a curve is drawn. */
export interface CurveLook {
  readonly width?: number;
  readonly height?: number;
}

/** A curve in characters, such as a loss by step. Where there are more values than columns, each column is a mean. */
export function curve(
  values: ArrayLike<number>,
  { width = 60, height = 10 }: CurveLook = {},
): string {
  const finite = Array.from(values).filter(Number.isFinite);
  if (finite.length < 2) return "";
  const columns = Math.min(width, finite.length);
  const means = Array.from({ length: columns }, (_, column) => {
    const from = Math.floor(column * finite.length / columns);
    const to = Math.floor((column + 1) * finite.length / columns);
    const part = finite.slice(from, to);
    return part.reduce((sum, value) => sum + value, 0) / part.length;
  });
  return asciichart.plot(means, {
    height,
    format: (value: number) => significant(value).padStart(9),
  });
}

/** A model may write any character; control characters other than line breaks and tabs would move the terminal's cursor. */
export function clean(text: string): string {
  return text.replace(/[^\P{Cc}\n\t]/gu, "\u{fffd}");
}
