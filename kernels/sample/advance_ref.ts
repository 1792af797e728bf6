/** The numbers of a `GenerationState`; `out` has a row for each step. */
export interface GenerationNumbers {
  readonly ids: readonly number[];
  readonly positions: readonly number[];
  readonly past: number;
  readonly step: number;
  readonly done: readonly boolean[];
  readonly out: readonly (readonly number[])[];
}

/** The specification of advance.ts: the state after these tokens were chosen. */
export function advanceRef(
  state: GenerationNumbers,
  tokens: readonly number[],
  { ends, pad, seen }: { ends: readonly number[]; pad: number; seen: number },
): GenerationNumbers {
  const ids = tokens.map((token, row) => state.done[row] ? pad : token);
  return {
    ids,
    positions: state.positions.map((position) => position + 1),
    past: state.past + seen,
    step: state.step + 1,
    done: state.done.map((done, row) => done || ends.includes(ids[row])),
    out: state.out.map((line, step) => step === state.step ? ids : line),
  };
}
