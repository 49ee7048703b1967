// Types of zod by names of this project, which documentation does not follow into zod.

/** @internal */
export type ZodObject = import("zod").ZodObject;

/** @internal */
export type ZodType<Value = unknown> = import("zod").ZodType<Value>;

/** @internal */
export type Output<Schema> = import("zod").output<Schema>;
