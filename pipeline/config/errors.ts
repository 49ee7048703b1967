import { UserError } from "../../base/errors.ts";

/** A problem in a pipeline file or argument. */
export interface PipelineProblem {
	/** `file:line:column` (from 1), or the command-line argument that the value comes from. */
	where: string;
	/** What is wrong, and what would do. */
	message: string;
}

/** An invalid pipeline file or command line; the exit code is 2. */
export class PipelineFileError extends UserError {
	/** "PipelineFileError". */
	override name = "PipelineFileError";

	/** One message of all problems, at least one. */
	constructor(readonly problems: PipelineProblem[]) {
		super(problems.map(({ where, message }) => `${where}: ${message}`).join("\n"));
	}
}
