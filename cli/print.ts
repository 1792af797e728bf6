/** Printing and formatting for commands, in one import. */
export * from "./format.ts";
export * from "./output.ts";
