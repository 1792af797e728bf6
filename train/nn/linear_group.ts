/**
 * Linear layers under a common name, as `self_attn` and `mlp` are.
 *
 * @module
 */
import type { LinearLayer } from "./linear.ts";
import { Module, type Named } from "./module.ts";

/** Linear layers by name. Each can be replaced by another: a quantized one, or one with an adapter merged. */
export class LinearGroup<Name extends string = string> extends Module {
  /** The layers. */
  readonly layers: Record<Name, LinearLayer>;

  /** Makes a layer for each name. */
  constructor(names: readonly Name[], make: (name: Name) => LinearLayer) {
    super();
    const entries = names.map((name) => [name, make(name)] as const);
    this.layers = Object.fromEntries(entries) as Record<Name, LinearLayer>;
  }

  /** The layers, in their order. */
  override *children(): Generator<Named<Module>> {
    for (const name in this.layers) yield [name, this.layers[name]];
  }
}
