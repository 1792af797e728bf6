/**
 * How a model is loaded.
 *
 * @module
 */
import { INTEGER_BITS, type IntegerType } from "../../kernels/quant/integer.ts";
import type { FourBitType } from "../../kernels/quant/tables.ts";

/** The schemes that weights can be quantized to while a model is loaded. */
export type QuantizationScheme = FourBitType | IntegerType;

const SCHEMES: readonly QuantizationScheme[] = ["nf4", "fp4", "int8", "int4", "int3", "int2"];

/** How a model is loaded. */
export interface LoadOptions {
  /**
   * The scheme of the linear layers' weights; without it they stay as the checkpoint has them: in 32 bits, in the 4 bits of
   * bitsandbytes, or in the blocks of a GGUF file. Where a plain model was saved with the steps that its weights lie on, their type
   * gives the integers that it was saved from, and leaves plain what was plain then.
   */
  readonly quantize?: QuantizationScheme;
  /** Quantize the scales too (Dettmers et al., arXiv 2305.14314, section 3). */
  readonly doubleQuant?: boolean;
  /** Weights that share a scale: 64 by default, and for int8 a whole row. */
  readonly blockSize?: number;
  /** Decode linear weights that are stored quantized, to 32 bits: products are faster, for several times the memory. */
  readonly dequantize?: boolean;
  /**
   * What the plain weights of a frozen model lie in on the device: by default 16 bits on a GPU, for matrices whose numbers all are
   * 16-bit floats, as in an F16 checkpoint, so that nothing is lost, and else 32; "f32" for 32 everywhere; "f16" for 16 everywhere,
   * with numbers rounded to the nearest. Products are in 32 bits in any case.
   */
  readonly weights?: "f16" | "f32";
  /** "all" for full fine-tuning; by default the model is frozen, and an adapter is trained. */
  readonly trainable?: "all" | "none";
}

/** Whether a scheme is one of integers. */
export function isInteger(scheme: QuantizationScheme | undefined): scheme is IntegerType {
  return scheme !== undefined && Object.hasOwn(INTEGER_BITS, scheme);
}

/** Throws if the options make no sense together. */
export function checkOptions(
  { quantize, doubleQuant, blockSize, dequantize, weights, trainable }: LoadOptions,
): void {
  if (quantize !== undefined && !SCHEMES.includes(quantize)) {
    throw new RangeError(`Cannot quantize to "${quantize}": wanted one of ${SCHEMES.join(", ")}`);
  }
  if (quantize !== undefined && dequantize) {
    throw new TypeError(
      `Cannot load with quantize: "${quantize}" and dequantize: true, which keeps weights plain: leave one of them out`,
    );
  }
  if (doubleQuant && isInteger(quantize)) {
    throw new TypeError(
      `Cannot load with doubleQuant: ${quantize} has no scales to quantize again; leave it out, or take nf4`,
    );
  }
  if (quantize === undefined && (doubleQuant || blockSize !== undefined)) {
    throw new TypeError(
      `Cannot load with ${
        doubleQuant ? "doubleQuant" : "blockSize"
      } alone: say the scheme too, as quantize: "nf4"`,
    );
  }
  if (weights !== undefined && weights !== "f16" && weights !== "f32") {
    throw new RangeError(`Cannot keep weights in "${weights}": wanted "f16" or "f32"`);
  }
  if (weights === "f16" && trainable === "all") {
    throw new TypeError(
      "Cannot train weights in f16: small steps would be rounded away. Leave weights out, or add an adapter with addLora",
    );
  }
  if (quantize !== undefined && trainable === "all") {
    throw new TypeError(
      "Cannot train all of a quantized model: its weights are frozen. Add an adapter with addLora, or load it without quantize",
    );
  }
}
