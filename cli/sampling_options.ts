/** How tokens are drawn: the options of the commands that write text. */
import { z } from "zod";

const GROUP = "Sampling";

/** Temperature, top-k, top-p and the seed. */
export const SAMPLING_OPTIONS = {
  temperature: z.number().min(0).default(0)
    .meta({ description: "0 takes the likeliest token, 1 draws as the model says", group: GROUP }),
  topK: z.int().min(0).default(0)
    .meta({ description: "draw from the K likeliest tokens only; 0 for all", group: GROUP }),
  topP: z.number().gt(0).max(1).default(1).meta({
    description: "draw from the fewest tokens with this probability together",
    group: GROUP,
  }),
  seed: z.int().default(0)
    .meta({ description: "where random numbers begin: same seed, same text", group: GROUP }),
};
