import { UserError } from "../../base/errors.ts";

const PACKAGE = "npm:typescript@6.0.3";

/** What is used of the compiler. */
interface TypeScript {
	ScriptTarget: { ES2022: number; ESNext: number };
	ModuleKind: { ESNext: number };
	ModuleResolutionKind: { Bundler: number };
	transpileModule(text: string, options: { compilerOptions: Options }): { outputText: string };
	createProgram(entries: readonly string[], options: Options): {
		emit(file: undefined, write: (path: string, text: string) => void): void;
	};
}
type Options = Record<string, unknown>;

/**
 * The compiler, for syntax that browsers lack and for declarations. It is fetched when it is first needed,
 * since it is larger than all other packages together.
 *
 * @throws {UserError} If it cannot be fetched.
 */
export async function typescript(): Promise<TypeScript> {
	try {
		return (await import(PACKAGE)).default;
	} catch (error) {
		throw new UserError(
			`Pages are built with ${PACKAGE}, which cannot be fetched: ${(error as Error).message}`,
		);
	}
}
