import { tensor, zeros } from "../../../core/tensor.ts";
import { advance } from "../../../kernels/sample/advance.ts";
import { advanceRef, type GenerationNumbers } from "../../../kernels/sample/advance_ref.ts";
import { assertEquals, assertThrows } from "../../assert.ts";
import { device, randomIntegers } from "../../device.ts";

const ENDS = [3, 5];
const STEPS = 6;

function stateOf(rows: number, positions: readonly number[]) {
  return {
    ids: zeros(device, [rows, 1], "i32"),
    positions: tensor(device, Int32Array.from(positions), [rows, 1]),
    past: zeros(device, [1], "i32"),
    counters: tensor(device, new Uint32Array(2 + rows).fill(9).fill(0, 1, 2)),
    done: zeros(device, [rows], "i32"),
    out: zeros(device, [STEPS, rows], "i32"),
  };
}

for (const rows of [1, 5, 150]) {
  Deno.test(`advance() goes on as the reference does, with ${rows} rows`, async () => {
    const positions = Array.from({ length: rows }, (_, row) => row % 9);
    const state = stateOf(rows, positions);
    const ends = tensor(device, Int32Array.from(ENDS));
    let expected: GenerationNumbers = {
      ids: Array(rows).fill(0),
      positions,
      past: 0,
      step: 0,
      done: Array(rows).fill(false),
      out: Array.from({ length: STEPS }, () => Array(rows).fill(0)),
    };
    // One step more than fits into `out`: it changes nothing there.
    for (let step = 0; step <= STEPS; step++) {
      const tokens = randomIntegers(rows, 12, 100 + step);
      const seen = step === 0 ? 8 : 1;
      advance(state, tensor(device, tokens), { ends, pad: 5, seen });
      expected = advanceRef(expected, Array.from(tokens), { ends: ENDS, pad: 5, seen });
    }
    const [ids, places, past, counters, done, out] = await Promise.all(
      [state.ids, state.positions, state.past, state.counters, state.done, state.out]
        .map(async (t) => Array.from(await t.read())),
    );
    assertEquals(ids, expected.ids);
    assertEquals(places, expected.positions);
    assertEquals(past, [expected.past]);
    assertEquals(counters, [9, expected.step, ...Array(rows).fill(9)]);
    assertEquals(done, expected.done.map(Number));
    assertEquals(out, expected.out.flat());
  });
}

Deno.test("advance() refuses tensors that do not fit", () => {
  const state = stateOf(2, [0, 0]);
  const ends = tensor(device, Int32Array.from(ENDS));
  const three = tensor(device, new Int32Array(3));
  assertThrows(
    () => advance(state, three, { ends, pad: 0 }),
    RangeError,
    "Cannot advance the generation: ids has shape [2,1], wanted [3,1]",
  );
  const floats = tensor(device, new Float32Array(2));
  assertThrows(() => advance(state, floats, { ends, pad: 0 }), TypeError, "tokens holds f32");
});
