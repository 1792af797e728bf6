/**
 * The pending list: what the GPU shall do, in order, as plain values. A flush encodes the whole list as one submission, with
 * consecutive dispatches in one compute pass.
 *
 * @module
 */
import type { Pipeline } from "./kernel.ts";
import type { Block } from "./pool.ts";
import { encodeMirror, type Mirror } from "./texels.ts";

/** How many workgroups, along x, y and z. */
export type Grid = readonly [x: number, y?: number, z?: number];

/** A kernel with its buffers: a prepared dispatch. */
export interface DispatchCommand {
  readonly kind: "dispatch";
  readonly pipeline: Pipeline;
  readonly group: GPUBindGroup;
  readonly grid: Grid;
  /** Every block it uses, and those among them that it writes. */
  readonly uses: readonly Block[];
  readonly writes: readonly Block[];
  /** Bytes of all that it is given, each once: what it moves, where it reads and writes all of it. */
  readonly bytes: number;
  /** Floating-point operations, where the op that queued it counts them, or 0. */
  readonly flops: number;
}

/** A copy between buffers, in bytes. */
export interface CopyCommand {
  readonly kind: "copy";
  readonly from: Block;
  readonly fromOffset: number;
  readonly to: Block;
  readonly toOffset: number;
  readonly bytes: number;
}

/** Sets bytes to zero. */
export interface ClearCommand {
  readonly kind: "clear";
  readonly block: Block;
  readonly offset: number;
  readonly bytes: number;
}

/** Brings a texture up to its buffer, if the buffer was written since. */
export interface MirrorCommand {
  readonly kind: "mirror";
  readonly mirror: Mirror;
}

/** Ends a command buffer: in the next one every buffer's first use is free of barriers. */
export interface CutCommand {
  readonly kind: "cut";
}

/** One entry of the pending list. */
export type Command = DispatchCommand | CopyCommand | ClearCommand | MirrorCommand | CutCommand;

/** The blocks that a command uses. */
export function blocksOf(command: Command): readonly Block[] {
  switch (command.kind) {
    case "dispatch":
      return command.uses;
    case "copy":
      return [command.from, command.to];
    case "clear":
      return [command.block];
    case "mirror":
      return [command.mirror.block];
    case "cut":
      return [];
  }
}

/** Marks what a command writes as changed. Returns whether the command has anything to do. */
export function markWrites(command: Command): boolean {
  switch (command.kind) {
    case "dispatch":
      for (const block of command.writes) block.version++;
      return true;
    case "copy":
      command.to.version++;
      return true;
    case "clear":
      command.block.version++;
      return true;
    case "mirror": {
      const { mirror } = command;
      if (mirror.version === mirror.block.version) return false;
      mirror.version = mirror.block.version;
      return true;
    }
    case "cut":
      return true;
  }
}

/** Watches the passes of an encoding: the profiler puts each dispatch in a pass of its own and times it. */
export interface PassObserver {
  /** The pass descriptor for a dispatch that must be timed alone. */
  begin(command: DispatchCommand): GPUComputePassDescriptor;
  /** Called after the last pass. */
  end(encoder: GPUCommandEncoder): void;
}

/** Encodes commands in order. */
export function encode(
  encoder: GPUCommandEncoder,
  commands: readonly Command[],
  observer?: PassObserver | null,
): void {
  let pass: GPUComputePassEncoder | null = null;
  let current: GPUComputePipeline | null = null;
  const endPass = () => {
    pass?.end();
    pass = null;
    current = null;
  };
  for (const command of commands) {
    if (command.kind === "dispatch") {
      if (observer) endPass();
      pass ??= encoder.beginComputePass(observer?.begin(command));
      const pipeline = command.pipeline.gpu;
      if (pipeline !== current) pass.setPipeline(current = pipeline);
      pass.setBindGroup(0, command.group);
      pass.dispatchWorkgroups(command.grid[0], command.grid[1], command.grid[2]);
      continue;
    }
    endPass();
    if (command.kind === "copy") {
      const { from, fromOffset, to, toOffset, bytes } = command;
      encoder.copyBufferToBuffer(from.gpu, fromOffset, to.gpu, toOffset, bytes);
    } else if (command.kind === "clear") {
      encoder.clearBuffer(command.block.gpu, command.offset, command.bytes);
    } else if (command.kind === "mirror") {
      encodeMirror(encoder, command.mirror);
    }
  }
  endPass();
  observer?.end(encoder);
}

/** The commands of each command buffer. */
export function* partsOf(commands: readonly Command[]): Generator<Command[]> {
  let part: Command[] = [];
  for (const command of commands) {
    if (command.kind !== "cut") part.push(command);
    else {
      yield part;
      part = [];
    }
  }
  yield part;
}
