/**
 * The tree of parts that a model is made of, with Hugging Face's names.
 *
 * @module
 */
import type { Tensor } from "../../core/tensor.ts";

/** A name and what it names. */
export type Named<T> = readonly [name: string, value: T];

/** A part of a model: it holds tensors, and other modules. */
export abstract class Module {
  /** The modules directly inside, by name. */
  children(): Iterable<Named<Module>> {
    return [];
  }

  /**
   * The tensors that this module itself holds, f32 or where they are frozen also f16, by name. Quantized weights are none: they cannot
   * be trained.
   */
  tensors(): Iterable<Named<Tensor>> {
    return [];
  }

  /** Brings what this module itself holds in 16 bits to 32, to be changed or trained. Tensors that it had in 16 bits are freed. */
  widen(): void {}

  /** This module and all below it, by path: `model.layers.0.self_attn.q_proj`. */
  *modules(path = ""): Generator<Named<Module>> {
    yield [path, this];
    for (const [name, child] of this.children()) yield* child.modules(joinPath(path, name));
  }
}

/** `path.name`, or the name alone at the root. */
export function joinPath(path: string, name: string): string {
  return path === "" ? name : `${path}.${name}`;
}
