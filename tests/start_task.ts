import { join } from "node:path";

const PROJECT = join(import.meta.dirname!, "..");

export interface TaskResult {
	code: number;
	stdout: string;
	stderr: string;
}

export interface TaskOptions {
	cwd?: string;
	env?: Record<string, string>;
	/** A module that is run before the task. */
	preload?: string;
	/** The largest size of a file that it may write, about. */
	mostBytes?: number;
	/** Called with everything that the task has printed so far, whenever it prints. */
	onOutput?: (text: string, child: Deno.ChildProcess) => void;
	/** Called when the task is started. */
	onStart?: (child: Deno.ChildProcess) => void;
}

/** Runs a task of the project in a process of its own. */
export async function startTask(
	task: string,
	args: string[],
	{ cwd = PROJECT, env = {}, preload, mostBytes, onOutput, onStart }: TaskOptions = {},
): Promise<TaskResult> {
	const command = [
		Deno.execPath(),
		"run",
		"-A",
		// They fetch what others need not have.
		...(task.startsWith("web") ? ["--no-lock"] : []),
		...(preload ? [`--preload=${preload}`] : []),
		join(PROJECT, `tasks/${task}.ts`),
		...args,
	];
	// Bash counts in kB. Without the trap the signal would end the process before it sees an error.
	const limited = mostBytes
		? [
			"bash",
			"-c",
			`trap "" XFSZ; ulimit -f ${Math.floor(mostBytes / 1024)}; exec "$@"`,
			"bash",
			...command,
		]
		: command;
	const child = new Deno.Command(limited[0], {
		args: limited.slice(1),
		cwd,
		env: { NO_COLOR: "1", INIT_CWD: "", ...env },
		stdout: "piped",
		stderr: "piped",
	}).spawn();
	onStart?.(child);
	let stdout = "";
	const [status, , stderr] = await Promise.all([
		child.status,
		(async () => {
			for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) {
				stdout += text;
				onOutput?.(stdout, child);
			}
		})(),
		new Response(child.stderr).text(),
	]);
	return { code: status.code, stdout, stderr };
}
