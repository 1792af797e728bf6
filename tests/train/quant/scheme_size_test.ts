import { tensor } from "../../../core/tensor.ts";
import { parseScheme } from "../../../train/quant/policy.ts";
import { schemeBytes } from "../../../train/quant/scheme_size.ts";
import { quantizeWeight } from "../../../train/quant/weight_only.ts";
import { assertEquals } from "../../assert.ts";
import { device } from "../../device.ts";

const NAMES = ["f32", "int8", "int8-g32", "int4", "int4-g32", "int4-g7", "hqq", "hqq-g32"]
  .concat("int3", "int3-g24", "int2", "int2-g7", "hqq3", "hqq2-g32", "int3+10%")
  .concat(
    "nf4",
    "nf4-g128",
    "nf4-dq",
    "fp4-dq-g32",
    "int8-asym",
    "int8-full-tensor",
    "int4-sym-g32",
    "int4-channel",
    "int4+10%",
    "int8+30%",
    "nf4+5%",
  );

Deno.test("bytes of a scheme are those of the weights that it gives", async () => {
  // Groups and blocks that end early, and an odd number of kept columns.
  for (const shape of [[64, 64], [6, 100], [3, 33]] as const) {
    const size = shape[0] * shape[1];
    using weight = tensor(
      device,
      Float32Array.from({ length: size }, (_, i) => Math.sin(i)),
      shape,
    );
    for (const name of NAMES) {
      const scheme = parseScheme(name);
      const made = scheme && await quantizeWeight(weight, scheme);
      assertEquals(
        schemeBytes(scheme, shape),
        made ? made.bytes : weight.bytes,
        `${name} ${shape}`,
      );
      made?.dispose();
    }
  }
});
