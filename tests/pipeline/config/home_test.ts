import assert from "node:assert/strict";
import { Workplace } from "../../micro_model.ts";

Deno.test("paths that begin with ~ are refused: they would name a folder ~", async () => {
  using place = new Workplace({ layers: 1 });
  const refused = (fields: Parameters<Workplace["run"]>[0], where: string) =>
    assert.rejects(place.run(fields), ({ name, message }: Error) => {
      assert.equal(name, "PipelineFileError");
      assert.ok(
        message.includes(
          `${where} must not begin with "~", which only a shell replaces; write the whole path`,
        ),
        message,
      );
      return true;
    });
  for (const path of ["~", "~/x", "~\\x"]) {
    await refused({ output: path }, "output");
    await refused({ model: path }, "model");
  }
  const dataset = "~/a.txt";
  await refused(
    { stages: place.method.with(1, place.calibrateWith({ dataset })) },
    "calibrate.dataset",
  );
  await refused({ stages: place.method.with(-1, place.evaluateWith({ dataset })) }, "dataset");
});
