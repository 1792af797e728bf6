/**
 * Grids for kernels over a line of elements.
 *
 * @module
 */
import type { Grid } from "./commands.ts";

/** WebGPU's limit on each dimension of a dispatch. */
const MOST_GROUPS = 65_535;

/**
 * A grid of at least `groups` workgroups, folded into two dimensions where one is too short. Its kernel numbers workgroups by
 * `w.y * num_workgroups.x + w.x` and checks the bound.
 */
export function gridOf(groups: number): Grid {
  if (groups <= MOST_GROUPS) return [groups, 1, 1];
  const rows = Math.ceil(groups / MOST_GROUPS);
  return [Math.ceil(groups / rows), rows, 1];
}
