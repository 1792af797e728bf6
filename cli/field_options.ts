/** Which keys of a JSONL file are read: the options of the commands that take examples. */
import { z } from "zod";

const GROUP = "Data";

/** The keys of an example. */
export const FIELD_OPTIONS = {
  promptField: z.string().min(1).default("prompt")
    .meta({ description: "the prompt's key in JSONL", group: GROUP }),
  answerField: z.string().min(1).default("answer")
    .meta({ description: "the answer's key in JSONL", group: GROUP }),
};
