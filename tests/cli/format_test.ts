import {
  bytes,
  count,
  curve,
  duration,
  percent,
  row,
  significant,
  table,
} from "../../cli/format.ts";
import { assertEquals } from "../assert.ts";

Deno.test("bytes() uses powers of 1000", () => {
  assertEquals([0, 999, 1000, 999_499, 999_500, 1_234_567, 9.99e9].map(bytes), [
    "0 B",
    "999 B",
    "1.00 kB",
    "999 kB",
    "1.00 MB",
    "1.23 MB",
    "9.99 GB",
  ]);
});

Deno.test("count(), percent() and significant() keep three digits or so", () => {
  assertEquals([0, 999, 12345, 1.5e6].map(count), ["0", "999", "12.3 k", "1.50 M"]);
  assertEquals([0, 0.00123, 0.5, 1].map(percent), ["0.0 %", "0.12 %", "50.0 %", "100.0 %"]);
  assertEquals([0, 1e-5, 0.0123, 99.96, 2e7].map(significant), [
    "0.00",
    "1.00e-5",
    "0.0123",
    "100",
    "2.00e+7",
  ]);
});

Deno.test("duration() picks its unit", () => {
  assertEquals([0.42, 12.34, 59.96, 125, 3599.6, 3720].map(duration), [
    "0.42 s",
    "12.3 s",
    "1 min 00 s",
    "2 min 05 s",
    "1 h 00 min",
    "1 h 02 min",
  ]);
});

Deno.test("table() aligns numbers to the right, and wide letters", () => {
  const rows = [["matmul", 12, "3 ms"], ["層", null, "10 ms"]];
  assertEquals(
    table(["kernel", "n", "time"], rows, { right: [2], boxed: false }),
    ["kernel   n   time", "matmul  12   3 ms", "層          10 ms"].join("\n"),
  );
});

Deno.test("curve() means what falls in one column, and is empty for one value", () => {
  const lines = curve(Array.from({ length: 500 }, (_, i) => 500 - i), { width: 40, height: 5 });
  assertEquals(lines.split("\n").length, 6);
  assertEquals(curve([1]), "");
  assertEquals(curve([NaN, NaN]), "");
});

Deno.test("row() pads to the left or right", () => {
  assertEquals(row(["a", "1", ""], [3, -3, 4]), "a      1");
});
