import fc from "fast-check";
import { trainBpe } from "../../../train/data/bpe.ts";
import { Tokenizer } from "../../../train/files/tokenizer.ts";
import { assert, assertEquals, assertThrows } from "../../assert.ts";

Deno.test("trainBpe() merges the most frequent pair first, then the one of lower ids", () => {
  // Words: low 5, lower 2, newest 6, widest 3 (Sennrich et al., figure 1, without their end-of-word sign).
  const words = [["low", 5], ["lower", 2], ["newest", 6], ["widest", 3]] as const;
  const lines = words.flatMap(([word, count]) => Array<string>(count).fill(word));
  const { model } = trainBpe(lines, { vocabSize: 264 });
  // e s and s t are in 9 words: the lower ids go first. l o and o w then have 7; n e, e w and w est 6, of which e w goes
  // first since e comes before n, and of what it leaves n ew before ew est.
  assertEquals(model.merges.slice(0, 6), ["e s", "es t", "l o", "lo w", "e w", "n ew"]);
  assertEquals(model.vocab["lo"], 258);
});

Deno.test("trainBpe() counts overlapping pairs and stops where no pair is left", () => {
  assertEquals(trainBpe(["aaaa"], { vocabSize: 1000 }).model.merges, ["a a", "aa aa"]);
  assertEquals(trainBpe([], { vocabSize: 1000 }).model.merges, []);
});

Deno.test("trainBpe() is deterministic and keeps special tokens first", () => {
  const options = {
    vocabSize: 300,
    specialTokens: ["<end>", "<pad>"],
    bosToken: "<end>",
  };
  const text = ["the cat sat on the mat", "that's the hat that the cat had"];
  const json = trainBpe(text, options);
  assertEquals(JSON.stringify(trainBpe(text, options)), JSON.stringify(json));
  const tokenizer = new Tokenizer(json, { config: { bos_token: "<end>", pad_token: "<pad>" } });
  assertEquals([tokenizer.bosId, tokenizer.padId, tokenizer.eosId], [0, 1, null]);
  assertEquals(tokenizer.addsBos, true);
  assertEquals(tokenizer.encodeWithSpecials("the"), Int32Array.of(0, ...tokenizer.encode("the")));
  assertEquals(tokenizer.tokenOf(tokenizer.encode(" the")[0]), "Ġthe");
});

Deno.test("trainBpe() gives a tokenizer that encodes any text and gives it back", () => {
  const json = trainBpe(["a quick brown fox: naïve café, 東京 🐋", "__proto__ __proto__"], {
    vocabSize: 400,
    specialTokens: ["<end>"],
  });
  assert("__" in json.model.vocab);
  const tokenizer = new Tokenizer(json);
  const text = fc.string({ unit: "binary", maxLength: 60 });
  fc.assert(
    fc.property(text, (value) => {
      const ids = tokenizer.encode(value);
      assertEquals(tokenizer.decode(ids), value);
      assert(ids.every((id) => id > 0 && id < tokenizer.vocabSize));
    }),
    { numRuns: 500, seed: 1 },
  );
});

Deno.test("trainBpe() refuses sizes and special tokens that cannot be", () => {
  const train = (vocabSize: number, ...specialTokens: string[]) => () =>
    trainBpe(["a"], { vocabSize, specialTokens });
  assertThrows(train(256, "<end>"), RangeError, "need at least 257");
  assertThrows(train(300.5), RangeError, "300.5 tokens");
  assertThrows(train(300, "<end>", "<end>"), RangeError, "must differ");
  assertThrows(
    () => trainBpe(["a"], { vocabSize: 300, bosToken: "<s>" }),
    RangeError,
    'begin texts with "<s>"',
  );
});
