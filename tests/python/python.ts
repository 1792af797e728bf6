/** A Python with torch: NIBBLE_PYTHON names it (.ci/run installs one); without it `python3` is tried. */

const decoder = new TextDecoder();

/** Runs Python; gives its exit code, and what it printed, or its complaint where it failed. */
export async function python(...args: string[]): Promise<{ code: number; text: string }> {
  const command = Deno.env.get("NIBBLE_PYTHON") || "python3";
  try {
    const { code, stdout, stderr } = await new Deno.Command(command, {
      args,
      // Nothing is to be fetched: every model is on this disk.
      env: { HF_HUB_OFFLINE: "1", TRANSFORMERS_OFFLINE: "1", CUDA_VISIBLE_DEVICES: "" },
      stdin: "null",
    }).output();
    return { code, text: decoder.decode(code === 0 ? stdout : stderr).trim() };
  } catch (error) {
    return { code: -1, text: (error as Error).message };
  }
}

/** Why Python cannot be asked, or null. */
export async function lacking(modules: string): Promise<string | null> {
  const { code, text } = await python("-c", `import ${modules}`);
  return code === 0 ? null : text.split("\n").at(-1) ?? "it failed";
}
