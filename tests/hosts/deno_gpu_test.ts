import assert from "node:assert/strict";
import { openGpu } from "~/hosts/deno_gpu.ts";

/** Runs some work with a value of `BILLM_BINDING`. */
async function withBinding<Result>(value: string, work: () => Promise<Result>): Promise<Result> {
  Deno.env.set("BILLM_BINDING", value);
  try {
    return await work();
  } finally {
    Deno.env.delete("BILLM_BINDING");
  }
}

for (
  const value of ["0", "1", "100", "255", "-1024", "1000.5", "1MB", "many", " ", "1e400", "NaN"]
) {
  Deno.test(`BILLM_BINDING=${value} is refused`, async () => {
    await assert.rejects(withBinding(value, openGpu), {
      name: "UserError",
      message: `BILLM_BINDING must be a whole number of bytes of at least 256, found "${value}"`,
    });
  });
}

Deno.test("BILLM_BINDING lowers the limit of a binding, to whole units of 256 bytes", async () => {
  await using usual = await openGpu();
  for (
    const [value, binding] of [
      ["256", 256],
      ["1000", 768],
      ["65536", 65536],
      ["", usual.maxBinding],
      [String(2 ** 52), usual.maxBinding],
    ] as const
  ) {
    await using gpu = await withBinding(value, openGpu);
    assert.equal(gpu.maxBinding, binding, value);
    const values = Uint32Array.from({ length: 500 }, (_, i) => i);
    using tensor = gpu.upload(values, [500]);
    assert.deepEqual(await gpu.read(tensor, "u32"), values);
  }
});
