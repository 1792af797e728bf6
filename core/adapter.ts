/**
 * Finding a WebGPU adapter, describing it once, and saying what to do where there is none.
 *
 * @module
 */
import { installCommand } from "./driver.ts";

/** What kernels need to know about the adapter. */
export interface AdapterDescription {
  /** As the driver gives it, such as "NVIDIA H100 80GB HBM3" or "llvmpipe (LLVM 15.0.6, 256 bits)". */
  readonly name: string;
  /** Whether shaders run on a GPU, or on the processor (llvmpipe, SwiftShader). They want opposite kernels. */
  readonly type: "gpu" | "software";
  /** Whether subgroups can be used and have exactly 32 lanes: the only size that nibble's kernels are written for. */
  readonly subgroups: boolean;
  /** Whether software Vulkan lets the eight lanes of its vectors exchange values: its subgroups have exactly 8 lanes. */
  readonly broadcast: boolean;
  /** Whether shaders may use 16-bit floats. */
  readonly f16: boolean;
  /** Whether passes can be timed on the GPU. */
  readonly timestamps: boolean;
}

/** Linux needs two variables before the first adapter is asked for; the user's own values stay. */
function setEnvironment(): void {
  if (Deno.build.os !== "linux") return;
  try {
    // Without it, some drivers print an error, and Deno may abort at exit.
    if (!Deno.env.get("XDG_RUNTIME_DIR")) Deno.env.set("XDG_RUNTIME_DIR", "/tmp");
    // Without it, wgpu falls back to OpenGL on a processor, without a word.
    if (!Deno.env.get("DENO_WEBGPU_BACKEND")) Deno.env.set("DENO_WEBGPU_BACKEND", "vulkan");
  } catch (error) {
    // Without --allow-env, the driver's defaults must do.
    if (!(error instanceof Deno.errors.NotCapable)) throw error;
  }
}

/** The error for a machine without an adapter. */
export function noAdapterError(): Error {
  const found = Deno.build.os === "linux" ? "no Vulkan driver answered" : "the system offers none";
  return new Error(
    `Cannot find a WebGPU adapter: ${found}. Install your graphics card's driver` +
      (Deno.build.os === "linux" ? `, or a software driver: ${installCommand()}` : ""),
  );
}

/** The best adapter, or `null` where there is none. */
export async function findAdapter(): Promise<GPUAdapter | null> {
  setEnvironment();
  if (!navigator.gpu) return null;
  return await navigator.gpu.requestAdapter({ powerPreference: "high-performance" });
}

/** Limits that are raised to what the adapter has; the others keep WebGPU's defaults. */
const RAISED = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxTextureDimension2D",
] as const;

/** Opens the adapter's device with every optional feature that works, and describes the adapter. */
export async function openAdapter(
  adapter: GPUAdapter,
): Promise<{ gpu: GPUDevice; description: AdapterDescription }> {
  const requiredLimits: Record<string, number> = {};
  for (const limit of RAISED) requiredLimits[limit] = adapter.limits[limit];
  const { info } = adapter;
  const software = info.isFallbackAdapter ||
    /llvmpipe|lavapipe|swiftshader/i.test(info.description);
  const features: GPUFeatureName[] = [];
  if (adapter.features.has("timestamp-query")) features.push("timestamp-query");
  if (adapter.features.has("shader-f16")) features.push("shader-f16");
  // Deno 2.9 does not list subgroups, but grants them. Any size but the expected would be silently wrong.
  const lanes = software ? 8 : 32;
  const wide = info.subgroupMinSize === lanes && info.subgroupMaxSize === lanes;
  const wanted = wide ? [...features, "subgroups" as GPUFeatureName] : features;
  let gpu: GPUDevice;
  let subgroups = wide;
  try {
    gpu = await adapter.requestDevice({ requiredFeatures: wanted, requiredLimits });
  } catch (error) {
    if (!wide) throw error;
    subgroups = false;
    gpu = await adapter.requestDevice({ requiredFeatures: features, requiredLimits });
  }
  return {
    gpu,
    description: {
      name: info.description || info.device || info.vendor || "unnamed adapter",
      type: software ? "software" : "gpu",
      subgroups: subgroups && !software,
      broadcast: subgroups && software,
      f16: features.includes("shader-f16"),
      timestamps: features.includes("timestamp-query"),
    },
  };
}
