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

function resolve(file: string, specifier: string): string {
  return decodeURIComponent(new URL(specifier, `file:///${file}`).pathname.slice(1));
}

const root = decodeURIComponent(new URL("..", import.meta.url).pathname);

function check(context: Deno.lint.RuleContext, node: Deno.lint.Node, specifier: string): void {
  if (!specifier.startsWith(".")) return;
  const from = context.filename.replace(root, "");
  const fault = floorFault(from, resolve(from, specifier));
  if (fault) context.report({ node, message: fault });
}

const plugin: Deno.lint.Plugin = {
  name: "nibble",
  rules: {
    floors: {
      create: (context) => ({
        ImportDeclaration: (node) => check(context, node, node.source.value),
        ExportAllDeclaration: (node) => check(context, node, node.source.value),
        ExportNamedDeclaration: (node) => {
          if (node.source) check(context, node, node.source.value);
        },
      }),
    },
  },
};
export default plugin;
