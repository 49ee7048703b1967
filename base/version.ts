/** Version of the program; a part of what identifies a run. */
export const VERSION = "0.5.0";
