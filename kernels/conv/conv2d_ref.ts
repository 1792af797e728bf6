/**
 * The specification of conv2d.ts.
 *
 * @module
 */

/** The shapes of a convolution, and how its kernel moves. */
export interface ConvolutionCase {
  /** [batch, height, width, channels]. */
  readonly x: readonly number[];
  /** [outChannels, kernelHeight, kernelWidth, channels]. */
  readonly weight: readonly number[];
  readonly stride: number;
  readonly padding: number;
}

/** Pixel by pixel, with a bias for each output channel. */
export function conv2dRef(
  x: ArrayLike<number>,
  weight: ArrayLike<number>,
  bias: ArrayLike<number>,
  { x: [batch, height, width, channels], weight: [outs, kh, kw], stride, padding }: ConvolutionCase,
): Float64Array {
  const rows = Math.floor((height + 2 * padding - kh) / stride) + 1;
  const columns = Math.floor((width + 2 * padding - kw) / stride) + 1;
  const out = new Float64Array(batch * rows * columns * outs);
  let at = 0;
  for (let b = 0; b < batch; b++) {
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        for (let o = 0; o < outs; o++, at++) {
          out[at] = bias[o];
          for (let ky = 0; ky < kh; ky++) {
            for (let kx = 0; kx < kw; kx++) {
              const [py, px] = [row * stride + ky - padding, column * stride + kx - padding];
              if (py < 0 || py >= height || px < 0 || px >= width) continue;
              for (let c = 0; c < channels; c++) {
                out[at] += x[((b * height + py) * width + px) * channels + c] *
                  weight[((o * kh + ky) * kw + kx) * channels + c];
              }
            }
          }
        }
      }
    }
  }
  return out;
}
