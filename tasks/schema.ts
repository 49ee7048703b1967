// Prints the JSON Schema of pipeline files. For completion in an editor:
//   deno task schema > pipeline.schema.json
// and in the pipeline file: # yaml-language-server: $schema=pipeline.schema.json

import { pipelineJsonSchema } from "../pipeline/config.ts";
import { STAGES } from "../stages/mod.ts";

console.log(JSON.stringify(pipelineJsonSchema(STAGES), null, 2));
