/** The specification of max_pool.ts, for x of shape [batch, height, width, channels]. */
export function maxPoolRef(
  x: ArrayLike<number>,
  [batch, height, width, channels]: readonly number[],
  size: number,
): Float64Array {
  const [rows, columns] = [Math.floor(height / size), Math.floor(width / size)];
  const out = new Float64Array(batch * rows * columns * channels).fill(-Infinity);
  for (let i = 0; i < x.length; i++) {
    const channel = i % channels;
    const column = Math.floor(Math.floor(i / channels) % width / size);
    const row = Math.floor(Math.floor(i / channels / width) % height / size);
    const picture = Math.floor(i / (channels * width * height));
    if (row >= rows || column >= columns) continue;
    const at = ((picture * rows + row) * columns + column) * channels + channel;
    out[at] = Math.max(out[at], x[i]);
  }
  return out;
}
