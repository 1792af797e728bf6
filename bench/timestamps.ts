/**
 * Reading timestamps that passes left on the device.
 *
 * @module
 */

/** Nanoseconds of a tick. */
function tickOf(queue: GPUQueue): number {
  // Deno gives the adapter's ticks, and their length beside it; WebGPU says that a tick is a nanosecond.
  return (queue as GPUQueue & { getTimestampPeriod?: () => number }).getTimestampPeriod?.() ?? 1;
}

/**
 * Submits `encoder`, waits for it, and gives the first timestamps of query sets, which are then destroyed.
 *
 * @param gpu the device of all
 * @param sets timestamps that work submitted before, or in `encoder`, has written
 * @param count how many of them, over all sets: all but the last are full
 * @param encoder what is submitted; the way to the host is added to it
 * @returns milliseconds since the first timestamp
 */
export async function readTimestamps(
  gpu: GPUDevice,
  sets: readonly GPUQuerySet[],
  count: number,
  encoder: GPUCommandEncoder,
): Promise<number[]> {
  const bytes = 8 * count;
  const resolved = gpu.createBuffer({
    size: bytes,
    usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC,
  });
  const staging = gpu.createBuffer({
    size: bytes,
    usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
  });
  let at = 0;
  for (const set of sets) {
    const own = Math.min(set.count, count - at);
    if (own > 0) encoder.resolveQuerySet(set, 0, own, resolved, 8 * at);
    at += own;
  }
  encoder.copyBufferToBuffer(resolved, 0, staging, 0, bytes);
  gpu.queue.submit([encoder.finish()]);
  await staging.mapAsync(GPUMapMode.READ);
  const ticks = new BigUint64Array(staging.getMappedRange().slice(0));
  for (const resource of [staging, resolved, ...sets]) resource.destroy();
  const nanoseconds = tickOf(gpu.queue);
  return Array.from(ticks, (tick) => Number(tick - ticks[0]) * nanoseconds / 1e6);
}
