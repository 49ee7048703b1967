import { readFileSync } from "node:fs";
import { availableParallelism, release } from "node:os";
import { join } from "node:path";
import { counted } from "../base/figures.ts";

const PROJECT = import.meta.dirname && join(import.meta.dirname, "..");

/** What figures may depend on besides the adapter. */
export interface Surroundings {
	/** The commit of the program's checkout, with "-dirty" if files differ from it. */
	commit?: string;
	system: string;
	/** The version of the GPU's driver. */
	driver?: string;
}

/** The program's commit and this machine; what cannot be found out is left out. */
export async function surroundings(adapter: string): Promise<Surroundings> {
	const { os, arch } = Deno.build;
	const [commit, driver] = [await programCommit(), driverVersion(adapter)];
	return {
		...(commit && { commit }),
		system: `${os} ${release()}, ${arch}, ${counted(availableParallelism(), "core")}`,
		...(driver && { driver }),
	};
}

async function programCommit(): Promise<string | undefined> {
	// A program with fewer permissions is not asked for more.
	const { state } = Deno.permissions.querySync({ name: "run", command: "git" });
	if (!PROJECT || state !== "granted") return undefined;
	// The folder may lie in the checkout of something else.
	const lines = (await git("rev-parse", "--show-prefix", "HEAD"))?.split("\n");
	if (lines?.[0] !== "") return undefined;
	const isDirty = await git("status", "--porcelain", "--untracked-files=no") !== "";
	return lines[1] + (isDirty ? "-dirty" : "");
}

async function git(...args: string[]): Promise<string | undefined> {
	try {
		const { success, stdout } = await new Deno.Command("git", {
			args: ["--no-optional-locks", "-C", PROJECT!, ...args],
			stderr: "null",
		}).output();
		return success ? new TextDecoder().decode(stdout).trimEnd() : undefined;
	} catch {
		return undefined; // there is no git
	}
}

/** NVIDIA's driver tells its version in a file; Mesa's is in the name of its adapters. */
function driverVersion(adapter: string): string | undefined {
	if (!/nvidia/i.test(adapter)) return undefined;
	try {
		const text = readFileSync("/proc/driver/nvidia/version", "utf8");
		return text.match(/Kernel Module\b.*?\s(\d+\.[\d.]+)/)?.[1];
	} catch {
		return undefined;
	}
}
