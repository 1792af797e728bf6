/**
 * Texture copies of buffers, for software Vulkan only. There a kernel loads a texel in 12 ns and four floats of a storage buffer
 * in 230 (Mesa 22.3, per vector of 8 lanes), so kernels that load in their inner loop read textures. A copy costs some 20 µs, and
 * is made again only after the buffer was written.
 *
 * A buffer's texels are laid out in rows of 4,096: element `4 i` of the buffer is in texel `(i % 4096, i / 4096)`.
 *
 * @module
 */
import type { Block } from "./pool.ts";
import { LESS_AT_A_TIME } from "./refusal.ts";

/** WGSL function `texel(texture, i)`: the four floats from element `4 i` on. */
export const TEXEL_WGSL = `
fn texel(t: texture_2d<f32>, i: u32) -> vec4<f32> {
  return textureLoad(t, vec2<u32>(i & 4095u, i >> 12u), 0);
}
fn utexel(t: texture_2d<u32>, i: u32) -> vec4<u32> {
  return textureLoad(t, vec2<u32>(i & 4095u, i >> 12u), 0);
}
`;

const ROW = 4096;
const TEXEL_BYTES = 16;

/** What a kernel declares: `texture_2d<f32>` or `texture_2d<u32>`. The bits are the same. */
export type TexelKind = "f32" | "u32";

/** A texture that follows a range of a buffer. */
export interface Mirror {
  readonly id: number;
  readonly block: Block;
  readonly offset: number;
  readonly bytes: number;
  readonly texture: GPUTexture;
  readonly view: GPUTextureView;
  /** The block's version that the texture holds; −1 before the first copy. */
  version: number;
}

/** All mirrors of a device. */
export class Mirrors {
  readonly #gpu: GPUDevice;
  readonly #byBlock = new Map<number, Map<string, Mirror>>();
  #count = 0;
  /** Bytes in textures. */
  bytes = 0;

  constructor(gpu: GPUDevice) {
    this.#gpu = gpu;
  }

  /** The mirror of a range of a block, which may be stale. */
  get(block: Block, offset: number, bytes: number, kind: TexelKind): Mirror {
    // A block is shared by tensors of several sizes; one texture of its whole size serves all that begin where it begins.
    const size = offset === 0 ? block.bytes : bytes;
    let mirrors = this.#byBlock.get(block.id);
    if (!mirrors) this.#byBlock.set(block.id, mirrors = new Map());
    const key = `${kind}${offset}:${offset === 0 ? "" : size}`;
    let mirror = mirrors.get(key);
    if (!mirror) mirrors.set(key, mirror = this.#create(block, offset, size, kind));
    return mirror;
  }

  /** Forgets the textures of blocks that are gone. */
  drop(blocks: ReadonlySet<number>): void {
    for (const id of blocks) {
      for (const mirror of this.#byBlock.get(id)?.values() ?? []) {
        this.bytes -= mirror.bytes;
        mirror.texture.destroy();
      }
      this.#byBlock.delete(id);
    }
  }

  #create(block: Block, offset: number, bytes: number, kind: TexelKind): Mirror {
    const texels = Math.ceil(bytes / TEXEL_BYTES);
    const size = [Math.min(texels, ROW), Math.ceil(texels / ROW)];
    const limit = this.#gpu.limits.maxTextureDimension2D;
    if (size[1] > limit) {
      throw new RangeError(
        `Cannot load ${bytes} bytes at a time: this adapter's textures have at most ${
          limit * ROW * TEXEL_BYTES
        }; ${LESS_AT_A_TIME}`,
      );
    }
    const texture = this.#gpu.createTexture({
      size,
      format: kind === "f32" ? "rgba32float" : "rgba32uint",
      usage: GPUTextureUsage.TEXTURE_BINDING | GPUTextureUsage.COPY_DST,
    });
    this.bytes += texels * TEXEL_BYTES;
    return {
      id: this.#count++,
      block,
      offset,
      bytes: texels * TEXEL_BYTES,
      texture,
      view: texture.createView(),
      version: -1,
    };
  }
}

/** Records the copy of a buffer's bytes into its mirror. */
export function encodeMirror(encoder: GPUCommandEncoder, mirror: Mirror): void {
  const { block, offset, texture } = mirror;
  const texels = Math.floor(Math.min(mirror.bytes, block.bytes - offset) / TEXEL_BYTES);
  const rows = Math.floor(texels / ROW);
  const rest = texels % ROW;
  if (rows > 0) {
    encoder.copyBufferToTexture(
      { buffer: block.gpu, offset, bytesPerRow: ROW * TEXEL_BYTES },
      { texture },
      [ROW, rows],
    );
  }
  if (rest > 0) {
    encoder.copyBufferToTexture(
      { buffer: block.gpu, offset: offset + rows * ROW * TEXEL_BYTES },
      { texture, origin: [0, rows] },
      [rest, 1],
    );
  }
}
