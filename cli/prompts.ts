/** Reading the prompts of `nibble generate`. */
import { readText } from "../train/data/dataset.ts";

/**
 * The prompts in a file: the field of that name of each line where the file is JSONL (it is called so, or a field is named), or
 * else the lines that are not empty.
 */
export async function readPrompts(path: string, field?: string): Promise<string[]> {
  const { lines } = await readText(path);
  if (field === undefined && !path.endsWith(".jsonl")) return lines;
  return lines.map((line, i) => promptIn(line, field ?? "prompt", `prompt ${i + 1} of "${path}"`));
}

function promptIn(line: string, field: string, where: string): string {
  let row: unknown;
  try {
    row = JSON.parse(line);
  } catch (error) {
    throw new SyntaxError(
      `Cannot read ${where}: it is not valid JSON (${(error as Error).message})`,
    );
  }
  if (row === null || typeof row !== "object" || Array.isArray(row)) {
    throw new SyntaxError(`Cannot read ${where}: found ${line.slice(0, 40)}, wanted a JSON object`);
  }
  const prompt: unknown = Object.hasOwn(row, field) ? Reflect.get(row, field) : undefined;
  if (typeof prompt === "string") return prompt;
  const fields = Object.keys(row).map((name) => `"${name}"`).join(", ") || "none";
  throw new TypeError(
    `Cannot read ${where}: it has the fields ${fields}, wanted a text in "${field}"; ` +
      "name the prompt's field with --prompt-field",
  );
}
