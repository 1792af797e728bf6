/** What to say to a mistyped flag, config key or command. */
import { editDistance, nearest } from "../core/nearest.ts";

export { editDistance, nearest };

/** `: did you mean X?`, or `otherwise` where no candidate is near. */
export function didYouMean(
  name: string,
  candidates: Iterable<string>,
  otherwise: string,
): string {
  const near = nearest(name, candidates);
  return near === null ? otherwise : `: did you mean ${near}?`;
}
