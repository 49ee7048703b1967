import process from "node:process";

/** How a task has ended. */
export interface Ending {
	code: number;
	stdout: string;
	stderr: string;
}

let runs = 0;

/**
 * Runs a task within this process, where its modules are loaded already. It must not need signals, and only
 * one may run at a time.
 */
export async function runInProcess(task: string, args: readonly string[]): Promise<Ending> {
	const before = process.argv.slice(2);
	const { exit, args: own } = Deno;
	const { log, error } = console;
	const { Worker } = globalThis;
	const ending: Ending = { code: 0, stdout: "", stderr: "" };
	const { writeSync } = Deno.stdout;
	console.log = (...texts) => ending.stdout += `${texts.join(" ")}\n`;
	console.error = (...texts) => ending.stderr += `${texts.join(" ")}\n`;
	Deno.stdout.writeSync = (bytes) => {
		ending.stdout += new TextDecoder().decode(bytes);
		return bytes.length;
	};
	process.argv.splice(2, Infinity, ...args);
	Object.defineProperty(Deno, "args", { value: args, configurable: true });
	const ended = Promise.withResolvers<number>();
	Deno.exit = (code = Deno.exitCode) => {
		ended.resolve(code);
		throw new Error("the task has ended");
	};
	// The watchdog would end the process.
	globalThis.Worker = function (url: string | URL, options?: WorkerOptions) {
		return /watchdog/.test(`${url}`) ? { postMessage() {} } : new Worker(url, options);
	} as unknown as typeof Worker;
	try {
		import(`../tasks/${task}.ts?run=${++runs}`).catch(ended.reject);
		ending.code = await ended.promise;
	} finally {
		process.argv.splice(2, Infinity, ...before);
		Deno.exitCode = 0;
		Object.defineProperty(Deno, "args", { value: own, configurable: true });
		Object.assign(Deno, { exit });
		Object.assign(Deno.stdout, { writeSync });
		Object.assign(console, { log, error });
		Object.assign(globalThis, { Worker });
	}
	return ending;
}
