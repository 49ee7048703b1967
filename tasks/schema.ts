import { pipelineJsonSchema } from "../pipeline/config/config.ts";
import { STAGES } from "../stages/mod.ts";
import { parseArguments, runTask, usageErrors } from "./task.ts";

const HELP = `Usage: deno task schema

Prints the JSON Schema of pipeline files, for completion in editors:

  deno task schema > pipeline.schema.json

and in the pipeline file: # yaml-language-server: $schema=pipeline.schema.json
`;

await runTask(() => {
  const { values } = parseArguments(usageErrors("schema"), {
    options: { help: { type: "boolean", short: "h" } },
  });
  console.log(values.help ? HELP : JSON.stringify(pipelineJsonSchema(STAGES), null, 2));
  return Promise.resolve();
});
