/**
 * Reading timestamps that passes left on the device.
 *
 * @module
 */

/**
 * Submits `encoder`, waits for it, and gives the first timestamps of a query set, which is then destroyed.
 *
 * @param gpu the device of both
 * @param set timestamps that work submitted before, or in `encoder`, has written
 * @param count how many of them
 * @param encoder what is submitted; the way to the host is added to it
 * @returns milliseconds since the first timestamp
 */
export async function readTimestamps(
  gpu: GPUDevice,
  set: GPUQuerySet,
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
  encoder.resolveQuerySet(set, 0, count, resolved, 0);
  encoder.copyBufferToBuffer(resolved, 0, staging, 0, bytes);
  gpu.queue.submit([encoder.finish()]);
  await staging.mapAsync(GPUMapMode.READ);
  const ticks = new BigUint64Array(staging.getMappedRange().slice(0));
  for (const resource of [staging, resolved, set]) resource.destroy();
  // Deno gives the adapter's ticks, and their length beside it; WebGPU says that a tick is a nanosecond.
  const queue = gpu.queue as GPUQueue & { getTimestampPeriod?: () => number };
  const nanoseconds = queue.getTimestampPeriod?.() ?? 1;
  return Array.from(ticks, (tick) => Number(tick - ticks[0]) * nanoseconds / 1e6);
}
