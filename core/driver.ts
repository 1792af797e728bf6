/**
 * Which command installs a software Vulkan driver on this Linux system.
 *
 * @module
 */

/** Package managers by the `ID` or `ID_LIKE` of /etc/os-release. */
const COMMANDS: Readonly<Record<string, string>> = {
  debian: "apt-get update && apt-get install -y --no-install-recommends mesa-vulkan-drivers",
  ubuntu: "apt-get update && apt-get install -y --no-install-recommends mesa-vulkan-drivers",
  fedora: "dnf install -y mesa-vulkan-drivers",
  rhel: "dnf install -y mesa-vulkan-drivers",
  suse: "zypper install -y libvulkan_lvp",
  arch: "pacman -S --noconfirm vulkan-swrast",
  alpine: "apk add mesa-vulkan-swrast vulkan-loader",
};

/** The `ID` and then the `ID_LIKE` names of an os-release file. */
export function systemNames(osRelease: string): string[] {
  const names: string[] = [];
  for (const key of ["ID", "ID_LIKE"]) {
    const value = osRelease.match(new RegExp(`^${key}=["']?([^"'\n]*)`, "m"))?.[1];
    if (value) names.push(...value.split(/\s+/));
  }
  return names;
}

/** The text of /etc/os-release, or nothing where it cannot be read. */
export function readOsRelease(): string {
  for (const path of ["/etc/os-release", "/usr/lib/os-release"]) {
    try {
      return Deno.readTextFileSync(path);
    } catch { /* other systems keep it elsewhere, or read access was not given */ }
  }
  return "";
}

/** The shell command, without `sudo`, that installs the software Vulkan driver, or `undefined` for a system not known. */
export function driverCommand(osRelease: string = readOsRelease()): string | undefined {
  for (const name of systemNames(osRelease)) {
    const command = COMMANDS[name];
    if (command) return command;
  }
  return undefined;
}

/** What to tell the user to type. */
export function installCommand(
  osRelease: string = readOsRelease(),
  root: boolean = isRoot(),
): string {
  const command = driverCommand(osRelease);
  if (!command) return "your system's package of Mesa's Vulkan drivers (lavapipe)";
  return root ? command : command.split(" && ").map((part) => `sudo ${part}`).join(" && ");
}

/** Whether this process may install packages. */
export function isRoot(): boolean {
  try {
    return Deno.uid() === 0;
  } catch {
    return false; // without --allow-sys it is not known
  }
}
