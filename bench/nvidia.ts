/**
 * The GPU's memory as its driver sees it, with what WebGPU and the driver need beside tensors.
 *
 * @module
 */

/** What nvidia-smi says of the first GPU. */
export interface GpuState {
  /** Bytes in use by all processes. */
  readonly usedBytes: number;
  /** The driver's version. */
  readonly driver: string;
}

/** Asks nvidia-smi; null where it is not there, or may not be run. */
export async function askNvidia(): Promise<GpuState | null> {
  try {
    const { success, stdout } = await new Deno.Command("nvidia-smi", {
      args: ["--query-gpu=memory.used,driver_version", "--format=csv,noheader,nounits", "--id=0"],
      stderr: "null",
    }).output();
    const [used, driver] = new TextDecoder().decode(stdout).trim().split(/\s*,\s*/);
    const bytes = Number(used) * 2 ** 20;
    return success && Number.isFinite(bytes) && driver ? { usedBytes: bytes, driver } : null;
  } catch {
    return null;
  }
}
