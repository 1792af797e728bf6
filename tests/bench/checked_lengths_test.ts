import { Inputs, type KernelCase, type Sizes } from "../../bench/case.ts";
import { checkedLengths, KERNEL_CASES } from "../../bench/kernels.ts";
import { Recorder } from "../../core/capture.ts";
import type { Device } from "../../core/device.ts";
import type { Constants, Kernel } from "../../core/kernel.ts";
import { assertEquals } from "../assert.ts";
import { device } from "../device.ts";

/** Kernels of one label may have other code for each head size, or for each tile. */
const numbers = new Map<Kernel, number>();

function nameOf(kernel: Kernel, constants: Constants = {}): string {
  if (!numbers.has(kernel)) numbers.set(kernel, numbers.size);
  return `${kernel.label} #${numbers.get(kernel)} ${JSON.stringify(constants)}`;
}

/** The kernels that a case's op dispatches at some lengths, with their constants. Nothing is compiled, and nothing runs. */
function kernelsAt(kernel: KernelCase, sizes: Sizes): Set<string> {
  const seen = new Set<string>();
  let listed: Set<string> | null = null;
  const list: Device["dispatch"] = (kernel, _bindings, _grid, constants) => {
    listed?.add(nameOf(kernel, constants));
  };
  device.recorder = new Recorder(false);
  Object.assign(device, { dispatch: list });
  try {
    device.scope(() => {
      const work = kernel.make(new Inputs(device, 1), sizes);
      listed = seen;
      work.run();
    });
  } finally {
    device.recorder = null;
    delete (device as Partial<Device>).dispatch;
  }
  return seen;
}

/** Kernels that are timed without their result being checked, each with the case and the lengths. */
function uncheckedKernels(type: "software" | "gpu"): string[] {
  const timings = KERNEL_CASES.flatMap((kernel) =>
    kernel[type].map((sizes) => ({
      what: `${kernel.kernel} ${JSON.stringify(sizes)}`,
      timed: kernelsAt(kernel, sizes),
      checked: kernelsAt(kernel, checkedLengths(kernel, sizes)),
    }))
  );
  // Products within other ops are checked where they are timed alone, at lengths of their own.
  const products = new Set(
    timings.flatMap(({ checked }) => [...checked]).filter((name) => name.startsWith("matmul_")),
  );
  return timings.flatMap(({ what, timed, checked }) =>
    [...timed].filter((name) => !checked.has(name) && !products.has(name))
      .map((name) => `${what}: ${name}`)
  );
}

Deno.test("every kernel that is timed is one whose result was checked", () => {
  const own = device.adapter;
  const describe = (adapter: Partial<typeof own>) =>
    Object.assign(device, { adapter: { ...own, ...adapter } });
  try {
    describe({ type: "software", subgroups: false });
    assertEquals(uncheckedKernels("software"), []);
    for (const subgroups of [false, true]) {
      describe({ type: "gpu", subgroups, broadcast: subgroups });
      assertEquals(uncheckedKernels("gpu"), [], `subgroups: ${subgroups}`);
    }
  } finally {
    describe(own);
  }
});
