import { pipelineJsonSchema } from "../pipeline/config/config.ts";
import { RECIPES, STAGES } from "../stages/mod.ts";
import { runCommand } from "./task.ts";

const HELP = `Usage: deno task schema

Prints the JSON Schema of pipeline files, for completion in editors:

  deno task schema > pipeline.schema.json

and in the pipeline file: # yaml-language-server: $schema=pipeline.schema.json
`;

await runCommand({ name: "schema", help: HELP, options: {}, takesArguments: false }, () => {
  console.log(JSON.stringify(pipelineJsonSchema(STAGES, RECIPES), null, 2));
});
