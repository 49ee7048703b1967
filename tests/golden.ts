import assert from "node:assert/strict";
import { createHash } from "node:crypto";

/** Values of another program: the first of them, and the SHA-256 of the JSON of all. */
export interface Golden<Value> {
  first: Value[];
  sha256: string;
}

export function assertGolden<Value>(
  found: readonly Value[],
  { first, sha256 }: Golden<Value>,
): void {
  assert.deepEqual(found.slice(0, first.length), first);
  const hash = createHash("sha256").update(JSON.stringify(found)).digest("hex");
  assert.equal(
    hash,
    sha256,
    `the values after these differ: ${JSON.stringify(found).slice(0, 2000)}`,
  );
}
