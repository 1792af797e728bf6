/**
 * A kernel is a piece of WGSL with a label. Its bindings are read from the source, so that a call need not repeat which it
 * writes; pipelines are made once for each kernel and set of constants.
 *
 * @module
 */

/** How a kernel uses one of its bindings. */
export type Access = "read" | "write" | "uniform" | "texels";

/** A compute shader: source text and what its declarations say. Make one with `kernel`, once, at module level. */
export interface Kernel {
  /** What profiles and errors call it. */
  readonly label: string;
  /** WGSL, with an entry point named `main`. */
  readonly code: string;
  /** How it uses each binding of group 0, in order. */
  readonly accesses: readonly Access[];
}

const BINDING = /@group\(0\)\s*@binding\((\d+)\)\s*var\s*(?:<([^>]*)>)?\s*\w+\s*:\s*(\w+)/g;

/**
 * Declares a kernel.
 *
 * @param label what profiles and errors call it
 * @param code WGSL; bindings `@group(0) @binding(0..)` without gaps, entry point `main`
 * @throws {SyntaxError} if the bindings have a gap
 */
export function kernel(label: string, code: string): Kernel {
  const accesses: Access[] = [];
  for (const [, index, space, type] of code.matchAll(BINDING)) {
    accesses[Number(index)] = type.startsWith("texture_")
      ? "texels"
      : space === "uniform"
      ? "uniform"
      : space?.includes("read_write")
      ? "write"
      : "read";
  }
  for (let index = 0; index < accesses.length; index++) {
    if (accesses[index] === undefined) {
      throw new SyntaxError(`Cannot use kernel "${label}": binding ${index} is not declared`);
    }
  }
  return { label, code, accesses };
}

/** A compiled kernel. */
export interface Pipeline {
  /** Unique in its device: the name of this pipeline in memo keys. */
  readonly id: number;
  readonly kernel: Kernel;
  readonly gpu: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
}

/** Values for a kernel's `override` declarations. Each set is compiled on its own: use them for structure, not for lengths. */
export type Constants = Readonly<Record<string, number>>;

/** Compiles kernels, each once for each set of constants. */
export class Pipelines {
  readonly #gpu: GPUDevice;
  readonly #report: (fault: Error) => void;
  readonly #cache = new Map<Kernel, Map<string, Pipeline>>();
  #count = 0;
  /** Host time spent compiling so far, in milliseconds. */
  milliseconds = 0;

  constructor(gpu: GPUDevice, report: (fault: Error) => void) {
    this.#gpu = gpu;
    this.#report = report;
  }

  /** How many were compiled. */
  get count(): number {
    return this.#count;
  }

  /** The pipeline of a kernel with these constants. */
  get(kernel: Kernel, constants?: Constants): Pipeline {
    let byConstants = this.#cache.get(kernel);
    if (!byConstants) this.#cache.set(kernel, byConstants = new Map());
    const key = constants ? JSON.stringify(constants) : "";
    let pipeline = byConstants.get(key);
    if (!pipeline) byConstants.set(key, pipeline = this.#compile(kernel, constants));
    return pipeline;
  }

  #compile(kernel: Kernel, constants?: Constants): Pipeline {
    const start = performance.now();
    this.#gpu.pushErrorScope("validation");
    const module = this.#gpu.createShaderModule({ label: kernel.label, code: kernel.code });
    const gpu = this.#gpu.createComputePipeline({
      label: kernel.label,
      layout: "auto",
      compute: { module, entryPoint: "main", constants: { ...constants } },
    });
    const layout = gpu.getBindGroupLayout(0);
    this.#gpu.popErrorScope().then((error) => {
      if (error) {
        this.#report(new Error(`Cannot compile kernel "${kernel.label}": ${error.message}`));
      }
    }, () => {/* the device is gone, which is reported elsewhere */});
    this.milliseconds += performance.now() - start;
    return { id: this.#count++, kernel, gpu, layout };
  }
}
