/** Schemes by name and sizes, as several commands take them. */
import { parseScheme } from "../train/quant/policy.ts";

/** Whether a scheme has that name. */
export function isSchemeName(name: string): boolean {
  try {
    parseScheme(name);
    return true;
  } catch {
    return false;
  }
}

/** Bytes of a size such as `60MB`, in powers of 1000; null for anything else. */
export function readMemory(text: string): number | null {
  const [, digits, unit] = /^(\d+(?:\.\d+)?)\s*(kB|MB|GB|TB)$/i.exec(text) ?? [];
  const value = Number(digits);
  if (!(value > 0)) return null;
  return Math.floor(value * { k: 1e3, m: 1e6, g: 1e9, t: 1e12 }[unit[0].toLowerCase()]!);
}
