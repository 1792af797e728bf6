import { trainBpe } from "../../../train/data/bpe.ts";
import { loadTokenizer, saveTokenizer, Tokenizer } from "../../../train/files/tokenizer.ts";
import { assertEquals, assertRejects, assertThrows } from "../../assert.ts";

const json = trainBpe(["hello , world", "don 't"], { vocabSize: 270, specialTokens: ["<end>"] });

Deno.test("Tokenizer decodes exactly, without special tokens and unknown ids", () => {
  const tokenizer = new Tokenizer(json, { config: { clean_up_tokenization_spaces: true } });
  const ids = tokenizer.encode("hello , world<end> don 't");
  assertEquals(ids.includes(0), true);
  assertEquals(tokenizer.decode(ids), "hello , world don 't");
  assertEquals(tokenizer.decode([...ids, 9999, -1]), "hello , world don 't");
  assertEquals([tokenizer.decode([]), tokenizer.decode([0])], ["", ""]);
  assertEquals([tokenizer.encode("").length, tokenizer.vocabSize], [0, 270]);
  assertEquals([tokenizer.idOf("<end>"), tokenizer.idOf("nope"), tokenizer.tokenOf(-5)], [
    0,
    null,
    null,
  ]);
});

Deno.test("Tokenizer finds special tokens by name, then by the model's configuration", () => {
  const ids = (config: Record<string, unknown>, modelConfig: Record<string, unknown>) => {
    const { bosId, eosId, padId } = new Tokenizer(json, { config, modelConfig });
    return [bosId, eosId, padId];
  };
  assertEquals(ids({ bos_token: { content: "<end>" }, eos_token: "<end>" }, {}), [0, 0, null]);
  assertEquals(
    ids({ bos_token: null }, { bos_token_id: 7, eos_token_id: [5, 6], pad_token_id: 8 }),
    [
      null,
      5,
      8,
    ],
  );
  assertEquals(new Tokenizer(json, { config: { bos_token: "<end>" } }).addsBos, false);
});

Deno.test("loadTokenizer() reads what saveTokenizer() wrote, and names what is missing or broken", async () => {
  const folder = await Deno.makeTempDir();
  try {
    await assertRejects(() => loadTokenizer(folder), Error, 'tokenizer.json": there is no such');
    await saveTokenizer(new Tokenizer(json, { config: { eos_token: "<end>" } }), folder);
    const tokenizer = await loadTokenizer(folder);
    assertEquals([tokenizer.eosId, tokenizer.json], [0, JSON.parse(JSON.stringify(json))]);
    await Deno.writeTextFile(`${folder}/tokenizer_config.json`, "{");
    await assertRejects(() => loadTokenizer(folder), SyntaxError, "tokenizer_config.json");
    await Deno.remove(`${folder}/tokenizer_config.json`);
    await Deno.writeTextFile(`${folder}/tokenizer.json`, "{}");
    await assertRejects(
      () => loadTokenizer(folder),
      SyntaxError,
      "wanted the content of a Hugging",
    );
    assertThrows(() => new Tokenizer({}), SyntaxError, "Cannot use this tokenizer");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
