/**
 * Scopes: a tensor that is made while one is open is freed at its end, unless it is returned or kept.
 *
 * @module
 */
import type { Storage } from "./pool.ts";
import { Tensor } from "./tensor.ts";

/** The scopes of a device that are open, the innermost last. */
export class Scopes {
  readonly #open: Set<Storage>[] = [];
  readonly #free: (storage: Storage) => void;

  /** `free` gives a storage's memory back. */
  constructor(free: (storage: Storage) => void) {
    this.#free = free;
  }

  /** Puts a new storage into the innermost scope, if there is one. */
  add(storage: Storage): void {
    this.#open.at(-1)?.add(storage);
  }

  /** Takes a storage out of every scope: somebody else frees it, or has. */
  forget(storage: Storage): void {
    for (const scope of this.#open) scope.delete(storage);
  }

  /** Runs `body` in a scope of its own. What it returns goes into the scope around. */
  run<T>(body: () => T): T {
    const own = new Set<Storage>();
    const depth = this.#open.push(own);
    let kept = new Set<Storage>();
    try {
      const result = body();
      if (result instanceof Promise) {
        throw new TypeError("Cannot end a scope over a promise: pass a function that is not async");
      }
      kept = storagesIn(result);
      return result;
    } finally {
      this.#open.length = depth - 1;
      // Last in, first out: the next step takes the buffers in the order in which this one took them.
      for (const storage of [...own].reverse()) {
        if (kept.has(storage)) this.add(storage);
        else this.#free(storage);
      }
    }
  }
}

/** The storages of the tensors in a value. */
function storagesIn(value: unknown, found = new Set<Storage>()): Set<Storage> {
  if (value instanceof Tensor) {
    found.add(value.storage);
  } else if (Array.isArray(value)) {
    for (const item of value) storagesIn(item, found);
  } else if (value && Object.getPrototypeOf(value) === Object.prototype) {
    for (const item of Object.values(value)) storagesIn(item, found);
  }
  return found;
}
