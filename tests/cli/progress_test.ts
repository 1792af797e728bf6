import { progress, type ProgressStream } from "../../cli/progress.ts";
import { assert, assertEquals } from "../assert.ts";

/** A stream that keeps what it gets, and a clock that stands still until told. */
function fakes(isTTY: boolean) {
  const written: string[] = [];
  const stream: ProgressStream = { isTTY, columns: 200, write: (text) => written.push(text) };
  const clock = { time: 0, now: () => clock.time };
  return { written, stream, clock };
}

Deno.test("progress() prints the first and the last line when piped", () => {
  const { written, stream, clock } = fakes(false);
  const bar = progress({ total: 100, label: "Training", stream, now: clock.now });
  for (let step = 1; step <= 100; step++) {
    clock.time += 1;
    bar.update(step, { loss: 1 / step, tokensPerSecond: 12345 });
  }
  bar.stop();
  bar.stop();
  assertEquals(written, [
    "Training   1 % 1/100 · loss 1.0000 · 12.3 k tokens/s\n",
    "Training 100 % 100/100 · loss 0.0100 · 12.3 k tokens/s\n",
  ]);
});

Deno.test("progress() prints a line for each tenth of slow work, with the time left", () => {
  const { written, stream, clock } = fakes(false);
  {
    using bar = progress({ total: 100, label: "Training", stream, now: clock.now });
    for (let step = 1; step <= 100; step++) {
      clock.time += 1000;
      bar.update(step);
    }
  }
  assertEquals(written.length, 11);
  assertEquals(written[1], "Training  11 % 11/100 · 1:29 left\n");
  assertEquals(written.at(-1), "Training 100 % 100/100\n");
});

Deno.test("progress() breaks a long silence", () => {
  const { written, stream, clock } = fakes(false);
  const bar = progress({ total: 1000, label: "Training", stream, now: clock.now });
  for (let step = 1; step <= 5; step++) {
    clock.time += 31_000;
    bar.update(step, { note: "slow" });
  }
  assertEquals(written.length, 5);
  assert(written[4].includes("note slow · 8:34:05 left"), written[4]);
});

Deno.test("progress() prints nothing before the first update, and takes a total of 0", () => {
  const { written, stream } = fakes(false);
  progress({ total: 0, label: "Nothing", stream }).stop();
  assertEquals(written, []);
  const bar = progress({ total: 0, label: "Nothing", stream });
  bar.update(0);
  bar.stop();
  assertEquals(written, ["Nothing 100 % 0/0\n"]);
});

Deno.test("progress() draws a bar on a terminal, and one line at its end", () => {
  const { written, stream, clock } = fakes(true);
  const bar = progress({ total: 10, label: "Training", stream, now: clock.now });
  for (let step = 1; step <= 10; step++) {
    clock.time += 100;
    bar.update(step, { loss: 2 });
  }
  bar.stop();
  bar.update(3);
  const text = written.join("");
  assert(
    text.includes("Training [========================] 100 % 10/10 · loss 2.0000"),
    JSON.stringify(text),
  );
  assert(text.endsWith("\n"));
});
