import assert from "node:assert/strict";
import { Workplace } from "../micro_model.ts";

Deno.test("light on experts", async () => {
  using place = new Workplace({
    family: "qwen3-moe",
    layers: 2,
    hidden: 64,
    intermediate: 32,
  });
  const { record, events } = await place.run();
  for (const e of events) if (e.type === "warning") console.log(e);
  const linears = record.layers.flatMap(({ linears }) => linears);
  console.log(
    linears.map((
      { name, tokens, pooled, relativeOutputError },
    ) => [name, tokens, pooled, relativeOutputError]),
  );
  console.log(record.evaluation);
  assert.equal(linears.length, 2 * (4 + 18));
});
