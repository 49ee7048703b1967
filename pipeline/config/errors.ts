import { UserError } from "../../base/errors.ts";

/** One thing wrong in a pipeline file, with its place in it (both from 1; absent for `--set`). */
export interface PipelineProblem {
  /** `file:line:column`, or the command-line argument that the value came from. */
  where: string;
  message: string;
}

/** A pipeline file or command line that cannot be run; the exit code is 2. */
export class PipelineFileError extends UserError {
  override name = "PipelineFileError";

  constructor(readonly problems: PipelineProblem[]) {
    super(problems.map(({ where, message }) => `${where}: ${message}`).join("\n"));
  }
}
