import { pipelineJsonSchema } from "../pipeline/config/config.ts";
import { compactSchema } from "../pipeline/config/compact_schema.ts";
import { RECIPES, STAGES } from "../stages/mod.ts";
import { runCommand } from "./task.ts";

const HELP = `Usage: deno task schema

Prints the JSON Schema of pipeline files, for completion in editors:

  deno task schema > pipeline.schema.json

and in the pipeline file: # yaml-language-server: $schema=pipeline.schema.json

Options
  --compact   Without descriptions, on one line: what schema/pipeline.schema.json has
  --help      Print this
`;

const options = { compact: { type: "boolean" } } as const;

await runCommand({ name: "schema", help: HELP, options, takesArguments: false }, ({ values }) => {
	const whole = pipelineJsonSchema(STAGES, RECIPES);
	console.log(
		values.compact ? JSON.stringify(compactSchema(whole)) : JSON.stringify(whole, null, 2),
	);
});
