/**
 * Whole numbers of few bits side by side in words.
 *
 * @module
 */

/**
 * Packs codes without gaps, the first in the low bits of the first word; a code may lie across two words. A row begins with a new
 * word.
 *
 * @param codes below 2^bits
 * @param bits 1 to 8
 * @param columns codes of a row; by default there is one row
 */
export function packCodes(
  codes: Uint8Array,
  bits: number,
  columns: number = codes.length,
): Uint32Array<ArrayBuffer> {
  const width = Math.ceil(columns * bits / 32);
  const words = new Uint32Array(codes.length / columns * width);
  let at = 0;
  for (let first = 0; first < codes.length; first += columns) {
    let [word, filled] = [0, 0];
    for (let i = first; i < first + columns; i++) {
      word |= codes[i] << filled;
      filled += bits;
      if (filled < 32) continue;
      words[at++] = word;
      filled -= 32;
      word = codes[i] >>> (bits - filled);
    }
    if (filled > 0) words[at++] = word;
  }
  return words;
}

/** So many codes that `packCodes` packed, row by row; words behind them are left alone. */
export function unpackCodes(
  words: Uint32Array | Int32Array,
  bits: number,
  count: number,
  columns: number = count,
): Uint8Array<ArrayBuffer> {
  const codes = new Uint8Array(count);
  const mask = 2 ** bits - 1;
  let at = 0;
  for (let first = 0; first < count; first += columns) {
    let taken = 0;
    for (let i = first; i < first + columns; i++) {
      let code = words[at] >>> taken;
      taken += bits;
      if (taken >= 32) {
        taken -= 32;
        at++;
        if (taken > 0) code |= words[at] << (bits - taken);
      }
      codes[i] = code & mask;
    }
    if (taken > 0) at++;
  }
  return codes;
}
