import fc from "fast-check";
import { chunk, pack } from "../../../train/data/packing.ts";
import { assert, assertEquals, assertThrows } from "../../assert.ts";

function sequence(...ids: number[]) {
  return { ids: Int32Array.from(ids), labels: Int32Array.from(ids, (id) => -id) };
}

Deno.test("pack() fills the first row with room, restarts positions, ignores empty places", () => {
  const sequences = [sequence(1, 2, 3), sequence(4, 5), sequence(6), sequence(7, 8)];
  const [first, second, none] = pack(sequences, { length: 4, rows: 2 });
  assertEquals(first.ids, Int32Array.of(1, 2, 3, 6, 4, 5, 7, 8));
  assertEquals(first.positions, Int32Array.of(0, 1, 2, 0, 0, 1, 0, 1));
  assertEquals(first.labels, Int32Array.of(-1, -2, -3, -6, -4, -5, -7, -8));
  assertEquals(first.sequences, Int32Array.of(0, 0, 0, 2, 1, 1, 3, 3));
  assertEquals([first.rows, first.length, first.targets, second, none], [
    2,
    4,
    8,
    undefined,
    undefined,
  ]);
});

Deno.test("pack() begins a batch where no row has room, and pads the last", () => {
  const [, batch] = pack([sequence(1, 2, 3), sequence(4, 5)], { length: 4, rows: 1 });
  assertEquals(batch.ids, Int32Array.of(4, 5, 0, 0));
  assertEquals(batch.positions, Int32Array.of(0, 1, 0, 1));
  assertEquals(batch.labels, Int32Array.of(-4, -5, -100, -100));
  assertEquals(batch.sequences, Int32Array.of(1, 1, -1, -1));
  assertEquals(batch.targets, 2);
});

Deno.test("pack() keeps every sequence whole, once, in one row", () => {
  const lengths = fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 60 });
  fc.assert(
    fc.property(lengths, fc.integer({ min: 1, max: 4 }), (all, rows) => {
      const sequences = all.map((length, i) => sequence(...Array(length).fill(i + 1)));
      const found = new Map<number, number>();
      let last = 0; // batches follow the order of the sequences
      for (const { ids, positions, labels } of pack(sequences, { length: 9, rows })) {
        const here = ids.filter((id) => id > 0);
        assert(here.every((id) => id > last));
        last = Math.max(...here);
        for (let at = 0; at < ids.length; at++) {
          const id = ids[at];
          if (at % 9 === 0) assertEquals(positions[at], 0);
          else if (positions[at] > 0) {
            assertEquals([ids[at - 1], positions[at - 1] + 1], [id, positions[at]]);
          }
          assertEquals(labels[at], id === 0 ? -100 : -id);
          if (id > 0 && positions[at] === 0) assert(!found.has(id));
          if (id > 0) found.set(id, (found.get(id) ?? 0) + 1);
        }
      }
      assertEquals([...found].sort(([a], [b]) => a - b).map(([, count]) => count), all);
    }),
    { seed: 1 },
  );
});

Deno.test("pack() refuses what cannot be packed", () => {
  const shape = { length: 2, rows: 1 };
  assertThrows(() => pack([], shape), RangeError, "empty data set");
  assertThrows(() => pack([sequence(1, 2, 3)], shape), RangeError, "sequence 1: it has 3 tokens");
  assertThrows(() => pack([sequence(1)], { length: 0, rows: 1 }), RangeError, "0 places");
  assertThrows(() => pack([sequence(1)], { length: 1, rows: 1.5 }), RangeError, "1.5 rows");
});

Deno.test("chunk() makes every token after the first a label once", () => {
  const ids = Int32Array.of(1, 2, 3, 4, 5, 6, 7);
  for (const length of [1, 2, 3, 6, 7, 100]) {
    const rows = chunk(ids, length);
    assertEquals(rows.flatMap((row) => [...row.ids]), [1, 2, 3, 4, 5, 6]);
    assertEquals(rows.flatMap((row) => [...row.labels]), [2, 3, 4, 5, 6, 7]);
    assert(rows.slice(0, -1).every((row) => row.ids.length === length));
  }
  assertThrows(() => chunk(Int32Array.of(1), 4), RangeError, "a stream of 1 tokens");
});
