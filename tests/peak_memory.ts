/** The peak of this process's memory, on Linux; elsewhere it is not known. */

/** A line of /proc/self/status in bytes. */
function statusBytes(field: "VmHWM" | "VmRSS"): number {
  const line = new RegExp(`^${field}:\\s*(\\d+) kB`, "m").exec(
    Deno.readTextFileSync("/proc/self/status"),
  );
  return Number(line![1]) * 1024;
}

/** Runs `body`, and says by how many bytes the process's memory grew in it at most; null where that cannot be measured. */
export async function peakDuring<T>(
  body: () => Promise<T>,
): Promise<{ peak: number | null; result: T }> {
  let before: number | null = null;
  try {
    Deno.writeTextFileSync("/proc/self/clear_refs", "5"); // sets the peak to what is used now
    before = statusBytes("VmRSS");
  } catch {
    // Another system, or /proc may not be written.
  }
  const result = await body();
  return { peak: before === null ? null : statusBytes("VmHWM") - before, result };
}
