/**
 * An error that the user can act on. The message states what failed, what was found and what to do.
 * Tasks print it without a stack trace; any other error is a defect in this program.
 */
export class UserError extends Error {
	/** "UserError". */
	override name = "UserError";
}

/**
 * Rejects a tensor with NaN or infinite values.
 *
 * @param count The number of these values.
 * @throws {UserError} If it is not 0.
 */
export function refuseNonFinite(model: string, name: string, count: number): void {
	if (count === 0) return;
	throw new UserError(
		`"${model}": "${name}" holds ${count} ` +
			`${count === 1 ? "value that is" : "values that are"} NaN or infinite; ` +
			`the model is damaged, get it again`,
	);
}
