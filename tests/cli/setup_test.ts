import { automaticCommand, type Machine, setup, type World } from "../../cli/setup.ts";
import { driverCommand, installCommand, systemNames } from "../../core/driver.ts";
import { assert, assertEquals, assertRejects } from "../assert.ts";

const DEBIAN = `PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
NAME="Debian GNU/Linux"
VERSION_ID="12"
ID=debian
HOME_URL="https://www.debian.org/"
`;
const UBUNTU = `PRETTY_NAME="Ubuntu 24.04.1 LTS"
VERSION_CODENAME=noble
ID=ubuntu
ID_LIKE=debian
UBUNTU_CODENAME=noble
`;
const MINT = `NAME="Linux Mint"\nID=linuxmint\nID_LIKE="ubuntu debian"\n`;
const FEDORA = `NAME="Fedora Linux"\nVERSION_ID=41\nID=fedora\nPLATFORM_ID="platform:f41"\n`;
const ROCKY = `ID="rocky"\nID_LIKE="rhel centos fedora"\n`;
const SUSE = `ID="opensuse-tumbleweed"\nID_LIKE="opensuse suse"\n`;
const ARCH = `ID=arch\n`;
const ALPINE = `ID=alpine\n`;
const NIXOS = `ID=nixos\nID_LIKE=""\n`;

const APT = "apt-get update && apt-get install -y --no-install-recommends mesa-vulkan-drivers";

Deno.test("systemNames() gives ID before ID_LIKE, quoted or not, and no other keys", () => {
  assertEquals(systemNames(DEBIAN), ["debian"]);
  assertEquals(systemNames(UBUNTU), ["ubuntu", "debian"]);
  assertEquals(systemNames(MINT), ["linuxmint", "ubuntu", "debian"]);
  assertEquals(systemNames("ID='arch'\n"), ["arch"]);
  assertEquals(systemNames(FEDORA), ["fedora"]);
  assertEquals(systemNames(NIXOS), ["nixos"]);
  assertEquals(systemNames(""), []);
});

Deno.test("driverCommand() and installCommand() name each system's command", () => {
  for (const text of [DEBIAN, UBUNTU, MINT]) assertEquals(driverCommand(text), APT);
  for (
    const [text, start] of [
      [FEDORA, "dnf install"],
      [ROCKY, "dnf install"],
      [SUSE, "zypper install"],
      [ARCH, "pacman -S"],
      [ALPINE, "apk add"],
    ]
  ) {
    const command = driverCommand(text);
    assert(command?.startsWith(start), `${text}: ${command}`);
    assertEquals(installCommand(text, true), command);
    assertEquals(installCommand(text, false), `sudo ${command}`);
  }
  assertEquals(installCommand(DEBIAN, true), APT);
  assertEquals(installCommand(DEBIAN, false), APT.replaceAll("apt-get", "sudo apt-get"));
  for (const text of [NIXOS, ""]) {
    assertEquals(driverCommand(text), undefined);
    assert(installCommand(text, true).includes("lavapipe"));
  }
});

Deno.test("automaticCommand() lets setup act only for root, on Debian's kin", () => {
  const machine = (osRelease: string, root: boolean): Machine => ({ os: "linux", osRelease, root });
  for (const text of [DEBIAN, UBUNTU, MINT]) {
    assertEquals(automaticCommand(machine(text, true)), APT);
    assertEquals(automaticCommand(machine(text, false)), null);
  }
  for (const text of [FEDORA, ALPINE, NIXOS]) {
    assertEquals(automaticCommand(machine(text, true)), null);
  }
  assertEquals(automaticCommand({ os: "darwin", osRelease: "", root: true }), null);
  assertEquals(automaticCommand({ os: "windows", osRelease: "", root: false }), null);
});

/** A world that notes what was done in it. */
function world(options: {
  before?: boolean;
  after?: boolean;
  code?: number;
  root?: boolean;
}): World & { done: string[] } {
  const done: string[] = [];
  const { before = false, after = false, code = 0, root = true } = options;
  return {
    done,
    machine: { os: "linux", osRelease: DEBIAN, root },
    hasAdapter: () => Promise.resolve(before),
    hasAdapterNow: () => Promise.resolve(after),
    install: (command) => {
      done.push(command);
      return Promise.resolve({ code, output: "first\nE: Unable to fetch\n" });
    },
    say: () => {},
  };
}

Deno.test("setup() does nothing where there is an adapter", async () => {
  const here = world({ before: true });
  await setup(here);
  assertEquals(here.done, []);
});

Deno.test("setup() installs once, and believes only a new process", async () => {
  const here = world({ after: true });
  await setup(here);
  assertEquals(here.done, [APT]);
  await assertRejects(() => setup(world({})), Error, "though this command succeeded");
});

Deno.test("setup() says what to type where it may not install, and why an installation failed", async () => {
  const here = world({ root: false, after: true });
  await assertRejects(() => setup(here), Error, "Cannot find a WebGPU adapter");
  assertEquals(here.done, []);
  const failed = () => setup(world({ code: 100 }));
  await assertRejects(failed, Error, `ended with code 100. Run it yourself: ${APT}`);
  await assertRejects(failed, Error, "E: Unable to fetch");
});

Deno.test({
  name: "setup's process ends without a stack trace where there is no adapter",
  ignore: Deno.build.os !== "linux",
  fn: async () => {
    const file = new URL("../../cli/setup.ts", import.meta.url).pathname;
    const child = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", file, "--probe"],
      // No such driver: the loader finds none, as on a bare machine.
      env: { VK_DRIVER_FILES: "/nonexistent.json", VK_ICD_FILENAMES: "/nonexistent.json" },
    });
    const { code, stdout, stderr } = await child.output();
    assertEquals([code, stdout.length, new TextDecoder().decode(stderr)], [1, 0, ""]);
  },
});
