import { replaceFile, writeFolder, writeWhole } from "../../../train/files/output.ts";
import { assertEquals, assertRejects } from "../../assert.ts";

async function inFolder(body: (folder: string) => Promise<void>) {
  const folder = await Deno.makeTempDir();
  try {
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

function names(folder: string): string[] {
  return [...Deno.readDirSync(folder)].map((entry) => entry.name).sort();
}

Deno.test("writeWhole() writes text and bytes, makes parents, leaves no temporary file", () =>
  inFolder(async (folder) => {
    await writeWhole(`${folder}/a/b.txt`, "one");
    await writeWhole(`${folder}/a/b.txt`, new TextEncoder().encode("two"));
    assertEquals(await Deno.readTextFile(`${folder}/a/b.txt`), "two");
    assertEquals(names(`${folder}/a`), ["b.txt"]);
  }));

Deno.test("writeWhole() writes through a link and into a device", () =>
  inFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/real`, "one");
    await Deno.symlink(`${folder}/real`, `${folder}/link`);
    await writeWhole(`${folder}/link`, "two");
    assertEquals(await Deno.readTextFile(`${folder}/real`), "two");
    assertEquals((await Deno.lstat(`${folder}/link`)).isSymlink, true);
    if (Deno.build.os === "windows") return;
    await writeWhole("/dev/null", "gone");
    assertEquals((await Deno.stat("/dev/null")).isFile, false);
  }));

Deno.test("replaceFile() keeps the earlier file when the writer throws", () =>
  inFolder(async (folder) => {
    await writeWhole(`${folder}/a`, "one");
    await assertRejects(
      () =>
        replaceFile(`${folder}/a`, async (temporary) => {
          await Deno.writeTextFile(temporary, "half");
          throw new Error("Cannot go on");
        }),
      Error,
      "Cannot go on",
    );
    assertEquals(await Deno.readTextFile(`${folder}/a`), "one");
    assertEquals(names(folder), ["a"]);
    await assertRejects(() => writeWhole(folder, "x"), Error, "a folder has that name");
  }));

Deno.test("writeFolder() replaces what it makes and keeps the user's other files", () =>
  inFolder(async (folder) => {
    const write = (text: string) => (at: string) => Deno.writeTextFile(`${at}/weights`, text);
    await writeFolder(`${folder}/deep/out/`, write("one"));
    await Deno.writeTextFile(`${folder}/deep/out/notes`, "mine");
    await writeFolder(`${folder}/deep/out`, write("two"));
    assertEquals(await Deno.readTextFile(`${folder}/deep/out/weights`), "two");
    assertEquals(await Deno.readTextFile(`${folder}/deep/out/notes`), "mine");
    assertEquals(names(`${folder}/deep`), ["out"]);
  }));

Deno.test("writeFolder() changes nothing when the writer throws, or where a file stands", () =>
  inFolder(async (folder) => {
    await writeFolder(`${folder}/out`, (at) => Deno.writeTextFile(`${at}/weights`, "one"));
    const fail = async (at: string) => {
      await Deno.writeTextFile(`${at}/weights`, "half");
      throw new Error("Cannot go on");
    };
    await assertRejects(() => writeFolder(`${folder}/out`, fail), Error, "Cannot go on");
    await assertRejects(() => writeFolder(`${folder}/new`, fail), Error, "Cannot go on");
    assertEquals(await Deno.readTextFile(`${folder}/out/weights`), "one");
    assertEquals(names(folder), ["out"]);
    await assertRejects(
      () => writeFolder(`${folder}/out/weights`, fail),
      Error,
      "a file has that name",
    );
    await assertRejects(() => writeFolder(Deno.cwd(), fail), Error, "holds the current folder");
  }));
