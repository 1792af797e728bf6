import { readReport } from "./report.ts";
import { assert, assertEquals } from "./assert.ts";

const XML = (cases: string, failures: number) =>
  `<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="deno test" tests="4" failures="${failures}" errors="0" time="0.0">
    <testsuite name="./a_test.ts" tests="4" disabled="1" errors="0" failures="${failures}">${cases}
    </testsuite>
</testsuites>`;
const PASSED = '<testcase name="a &lt;b&gt;" time="0.0">\n        </testcase>';
const SKIPPED = '<testcase name="c"><skipped/></testcase>';
const FAILED =
  '<testcase name="d"><failure message="x &lt;/testcase&gt;">trace</failure></testcase>';

Deno.test("readReport() counts passed, failed and skipped tests", () => {
  assertEquals(readReport(XML(PASSED + SKIPPED + PASSED, 0), 0), {
    tally: { passed: 2, failed: 0 },
    fault: null,
  });
  assertEquals(readReport(XML(PASSED + FAILED + SKIPPED + FAILED, 2), 1), {
    tally: { passed: 1, failed: 2 },
    fault: null,
  });
  assertEquals(readReport(XML('<testcase name="a" time="0.0"/>', 0), 0).tally.passed, 1);
});

Deno.test("readReport() believes the larger count of failures", () => {
  assertEquals(readReport(XML(PASSED + PASSED, 1), 1).tally, { passed: 1, failed: 1 });
  assertEquals(readReport(XML(PASSED + FAILED, 0), 1).tally, { passed: 1, failed: 1 });
});

Deno.test("readReport() counts a crash, a cut report, and a fault outside tests as a failure", () => {
  for (const xml of ["", "<testsuites tests=", XML(PASSED, 0).slice(0, -20)]) {
    const { tally, fault } = readReport(xml, 0);
    assertEquals(tally, { passed: 0, failed: 1 });
    assert(fault?.includes("no whole report"), String(fault));
  }
  const { tally, fault } = readReport(XML(PASSED, 0), 134);
  assertEquals(tally, { passed: 1, failed: 1 });
  assert(fault?.includes("code 134"), String(fault));
});
