import { z } from "zod";
import { UserError } from "../base/errors.ts";
import { readJson } from "../storage/json.ts";
import { denoFile } from "../storage/deno_folder.ts";

const schema = z.strictObject({
	program: z.string().min(1).describe("The program that made the files, such as llama.cpp"),
	notes: z.array(z.string().min(1)).default([]).describe("How they were made and measured"),
	results: z.array(z.strictObject({
		name: z.string().min(1).describe("The type or setting"),
		bytes: z.int().positive().describe("Size of the weights, embedding and head included"),
		perplexity: z.number().positive().describe("On the data of the runs that they are drawn with"),
	})).min(1),
});

/** Results of another program on the same model and data, for charts. */
export type Peers = z.output<typeof schema>;

/**
 * Reads the results of another program.
 *
 * @throws {UserError} If the file cannot be read, or a key is missing, unknown or of the wrong kind.
 */
export function readPeers(path: string): Peers {
	const { data, error } = schema.safeParse(readJson(denoFile(path)));
	if (data) return data;
	const [issue] = error!.issues;
	const place = issue.path.length > 0 ? `${issue.path.join(".")}: ` : "";
	throw new UserError(
		`Cannot read the peers "${path}": ${place}${issue.message}. A file of peers has the keys ` +
			`program, notes (optional) and results, a list of { name, bytes, perplexity }`,
	);
}
