/** A lint plugin for the rule that imports point down only: core ← kernels ← train ← bench ← cli, and floors inside train. */

/** The floors, lowest first; those in one list stand side by side and do not see each other's upper neighbours. */
const FLOORS: readonly (readonly string[])[] = [
  ["core"],
  ["kernels"],
  ["train/files", "train/data"],
  ["train/nn"],
  ["train/models"],
  ["train/quant", "train/adapters"],
  ["train/optim", "train/eval"],
  ["train"],
  ["bench"],
  ["cli"],
];

const NAMES = FLOORS.flat().sort((a, b) => b.length - a.length);

/** The floor of a file, from its path inside the project; mod.ts, cli.ts and tests stand above all floors. */
export function floorOf(path: string): { name: string; level: number } | null {
  const name = NAMES.find((own) => path.startsWith(`${own}/`));
  if (!name) return path.startsWith("tests/") ? { name: "tests", level: FLOORS.length } : null;
  return { name, level: FLOORS.findIndex((side) => side.includes(name)) };
}

/** Why `from` may not import `to` (paths inside the project), or null. */
export function floorFault(from: string, to: string): string | null {
  const [own, other] = [floorOf(from), floorOf(to)];
  if (!own) return null;
  if (!other) {
    return /^(mod|cli)\.ts$/.test(to) && own.name !== "tests"
      ? `${own.name}/ must not import ${to}`
      : null;
  }
  return other.level > own.level ? `${own.name}/ must not import ${other.name}/` : null;
}

/** The project's root, with a slash at its end, as `context.filename` spells it. */
const ROOT = `${import.meta.dirname!.replaceAll("\\", "/").replace(/[^/]*$/, "")}`;

/** The path inside the project that a specifier names, or null for a package. */
function resolve(file: string, specifier: string): string | null {
  if (specifier.startsWith("@nibble/nibble")) {
    return specifier === "@nibble/nibble" ? "mod.ts" : "cli.ts";
  }
  if (!specifier.startsWith(".")) return null;
  return decodeURIComponent(new URL(specifier, `file:///${file}`).pathname.slice(1));
}

function check(context: Deno.lint.RuleContext, node: Deno.lint.Node, specifier: unknown): void {
  if (typeof specifier !== "string") return;
  const from = context.filename.replaceAll("\\", "/").replace(ROOT, "");
  const to = resolve(from, specifier);
  const message = to && floorFault(from, to);
  if (message) context.report({ node, message });
}

const plugin: Deno.lint.Plugin = {
  name: "nibble",
  rules: {
    floors: {
      create: (context) => ({
        ImportDeclaration: (node) => check(context, node, node.source.value),
        ExportAllDeclaration: (node) => check(context, node, node.source.value),
        ExportNamedDeclaration: (node) => check(context, node, node.source?.value),
        ImportExpression: (node) =>
          check(context, node, node.source.type === "Literal" && node.source.value),
      }),
    },
  },
};
export default plugin;
