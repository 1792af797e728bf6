/** Runs kernels that GPUs take on the device of the tests, which may be software Vulkan. */
import { device } from "./device.ts";

/** Runs `body` with the device described as a GPU without subgroups, then as it is. Software Vulkan can run those kernels, slowly. */
export async function onBoth(body: () => Promise<void>): Promise<void> {
  await body();
  if (device.adapter.type === "gpu") return;
  const own = device.adapter;
  const describe = (adapter: typeof own) => Object.assign(device, { adapter });
  describe({ ...own, type: "gpu", subgroups: false, broadcast: false });
  try {
    await body();
  } finally {
    describe(own);
  }
}
