import assert from "node:assert/strict";
import { startTask } from "../start_task.ts";

Deno.test("bench:trellis measures forms of a search that give the same", async () => {
  const args = ["--bits", "2", "--table", "8", "--tiles", "1", "--runs", "1"];
  const { code, stdout, stderr } = await startTask("bench:trellis", args);
  assert.equal(code, 0, stderr);
  assert.match(
    stdout,
    /columns of 1 tiles\nbits  table  form .*\n2     8      \d+ threads, .* as the stage\n/,
  );
  assert.ok(stdout.split("\n").length > 5);
  assert.doesNotMatch(stdout, /OTHER RESULT|NaN/);
});

Deno.test("bench:trellis says what is wrong with its arguments", async () => {
  const { code, stderr } = await startTask("bench:trellis", ["--bits", "4"]);
  assert.equal(code, 2);
  assert.match(
    stderr,
    /^deno task bench:trellis: --bits must be one of 1, 1.5, 2, 2.5, 3, found "4"$/m,
  );
});
