/** The version of the program, which is part of a run's identity. */
export const VERSION = "0.10.0";
