import { mkdirSync, readdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";

export const PROJECT = join(import.meta.dirname!, "..");

/** A folder that looks like a fresh checkout of the project, without its output. */
export function linkCheckout(folder: string): string {
	mkdirSync(folder, { recursive: true });
	for (const name of readdirSync(PROJECT)) {
		if (["out", ".git", "node_modules"].includes(name)) continue;
		symlinkSync(join(PROJECT, name), join(folder, name));
	}
	return folder;
}

/** What a script has done. */
export interface ScriptResult {
	code: number;
	stdout: string;
	stderr: string;
}

/** Runs a script as GitHub Actions runs a step and Slurm a job: with bash, until something fails. */
export async function runScript(
	script: string,
	cwd: string,
	env: Record<string, string>,
	args: string[] = ["-e", "-c"],
): Promise<ScriptResult> {
	const { INIT_CWD: _, ...inherited } = Deno.env.toObject();
	const { code, stdout, stderr } = await new Deno.Command("bash", {
		args: ["--noprofile", "--norc", ...args, script],
		cwd,
		clearEnv: true,
		env: { ...inherited, NO_COLOR: "1", ...env },
	}).output();
	const decoder = new TextDecoder();
	return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}
