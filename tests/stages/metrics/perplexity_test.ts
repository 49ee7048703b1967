import assert from "node:assert/strict";
import { perplexityText } from "../../../stages/metrics/perplexity.ts";

Deno.test("perplexities have as many digits as they are worth", () => {
  const texts = [24.631, 999.999, 4102.3, 2.5e7, null, undefined].map(perplexityText);
  assert.deepEqual(texts, ["24.63", "1\u202f000.00", "4\u202f102", "2.50e+7", "not finite", "–"]);
});
