/**
 * An error that the user can act on: the message says what failed, what was found and what would do.
 * Tasks print it without a stack trace; everything else that is thrown is a defect of ours.
 */
export class UserError extends Error {
  override name = "UserError";
}
