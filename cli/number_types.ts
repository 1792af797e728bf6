/** `nibble inspect --types`: the number types side by side. */
import {
  type NumberType,
  numberTypes,
  type RoundingExample,
} from "../kernels/quant/number_types.ts";
import { bytes, printJson, printLine, significant, table } from "./print.ts";

/** A number as short as it can be told from its neighbours. */
function short(value: number): string {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e6)) return value.toExponential(3);
  return String(Number(value.toPrecision(9)));
}

/** `2^-24` for a power of two, and the number for others. */
function power(value: number): string {
  const exponent = Math.log2(value);
  return Number.isInteger(exponent) && Math.abs(exponent) > 1 ? `2^${exponent}` : short(value);
}

const LETTERS: Readonly<Record<string, string>> = {
  sign: "s",
  exponent: "e",
  fraction: "f",
  value: "v",
  code: "c",
};

/** `s eeeee ffffffffff`. */
function laidOut({ layout }: NumberType): string {
  return layout.map(({ field, bits }) => LETTERS[field].repeat(bits)).join(" ");
}

function rounded({ value, below, above, rounded, bits }: RoundingExample): string[] {
  const tie = value - below === above - value ? "a tie" : "";
  return [short(value), short(below), short(above), short(rounded), bits, tie];
}

/** Prints them, as tables or as JSON. */
export function printNumberTypes(json: boolean): void {
  const types = numberTypes();
  if (json) return printJson({ weights: 7e9, types });
  printLine(table(
    ["type", "bits", "laid out", "bias", "numbers", "besides"],
    types.map((own) => [own.name, own.bits, laidOut(own), own.bias, own.count, own.special]),
  ));
  printLine("s sign, e exponent, f fraction, v value in two's complement, c code of a table\n");
  printLine(table(
    ["type", "least", "largest", "smallest normal", "smallest", "step below 1", "above 1"],
    types.map(({ name, least, most, smallestNormal, smallest, nearOne }) => [
      name,
      short(least),
      short(most),
      smallestNormal === null ? "" : power(smallestNormal),
      power(smallest),
      power(nearOne.below),
      nearOne.above === null ? "" : power(nearOne.above),
    ]),
    { right: [1, 2, 3, 4, 5, 6] },
  ));
  printLine("Between the smallest and the smallest normal number, floats lose digits: subnormal\n");
  printLine(table(
    ["type", "number", "below", "above", "becomes", "bits", ""],
    types.flatMap((own) =>
      own.rounding.map((example, i) => [i === 0 ? own.name : "", ...rounded(example)])
    ),
    { right: [1, 2, 3, 4] },
  ));
  printLine("To the nearest; ties to the even code, in NF4 and FP4 to the lower number\n");
  printLine(table(
    ["type", "bytes a weight", "7B model", "with scales", "bits a weight", "scales"],
    types.map(({ name, bits, model }) => [
      name,
      String(bits / 8),
      bytes(model.bytes),
      model.scales === "" ? "" : `${(model.bytesWithScales / 1e9).toFixed(2)} GB`,
      significant(model.bitsPerWeight),
      model.scales,
    ]),
    { right: [1, 2, 3, 4] },
  ));
}
