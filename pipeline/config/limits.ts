// Limits of pipeline files, so that a file of any size is refused soon.

/** The most items of `stages`: more than there are, each of which may occur once. */
export const MOST_STAGES = 100;

/** The most aliases of a file: each is sought in the whole of it. */
export const MOST_ALIASES = 500;

/** The most problems that are told of at once. */
export const MOST_PROBLEMS = 20;

/** The most letters of a message: a file's own words are in it. */
export const MOST_LETTERS = 2000;
