import assert from "node:assert/strict";
import {
	existsSync,
	mkdirSync,
	readdirSync,
	readFileSync,
	symlinkSync,
	writeFileSync,
} from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { UserError } from "../../../base/errors.ts";
import {
	FOLDER_LOCK,
	FolderInUse,
	FolderLock,
	type LockSystem,
} from "../../../pipeline/run/folder_lock.ts";
import { TemporaryFolder } from "../../temporary_folder.ts";

/** A file system without locks. */
const LOCKLESS: LockSystem = {
	tryLock() {
		throw new Error("Function not implemented (os error 38)");
	},
};

const SYSTEMS: [string, LockSystem | undefined][] = [
	["with locks", undefined],
	["without locks", LOCKLESS],
];

/** The process id of a process that has ended. */
async function endedProcess(): Promise<number> {
	const child = new Deno.Command(Deno.execPath(), { args: ["--version"], stdout: "null" }).spawn();
	await child.status;
	return child.pid;
}

for (const [what, system] of SYSTEMS) {
	Deno.test(`a folder is locked for one at a time, on a file system ${what}`, () => {
		using place = new TemporaryFolder();
		const folder = join(place.path, "out");
		const first = FolderLock.take(folder, system);
		const holder = JSON.parse(readFileSync(join(folder, FOLDER_LOCK), "utf8"));
		assert.deepEqual(holder, { pid: Deno.pid, host: hostname() });
		const refusal = new FolderInUse(
			`The folder "${folder}" is in use: process ${Deno.pid} on "${hostname()}" writes to it; wait ` +
				`until it has ended or choose another output`,
		);
		assert.throws(() => FolderLock.take(folder, system), refusal);
		assert.throws(() => FolderLock.check(folder, system), refusal);
		first[Symbol.dispose]();
		first[Symbol.dispose](); // has no effect
		FolderLock.check(folder, system);
		assert.ok(!existsSync(folder), "it was made for the lock, and nothing is in it");
		using _second = FolderLock.take(folder, system);
	});

	Deno.test(`what a lock was made in stays if it is needed, on a file system ${what}`, () => {
		using place = new TemporaryFolder();
		const folder = join(place.path, "a/b/c");
		{
			using _ = FolderLock.take(folder, system);
			writeFileSync(join(place.path, "a/b/kept"), "");
		}
		assert.deepEqual(readdirSync(join(place.path, "a/b")), ["kept"]);
		const empty = join(place.path, "empty");
		mkdirSync(empty);
		FolderLock.take(empty, system)[Symbol.dispose]();
		assert.deepEqual(readdirSync(empty), [], "a folder of others, even an empty one, stays");
	});

	Deno.test(`what a killed process leaves blocks nobody, on a file system ${what}`, async () => {
		using place = new TemporaryFolder();
		const ended = { pid: await endedProcess(), host: hostname() };
		const own = { pid: Deno.pid, host: hostname() }; // of a process before with the same number
		for (
			const left of [JSON.stringify(ended), JSON.stringify(own), "", "{", "null", '{"pid":"1"}']
		) {
			writeFileSync(join(place.path, FOLDER_LOCK), left);
			FolderLock.check(place.path, system);
			FolderLock.take(place.path, system)[Symbol.dispose]();
			assert.deepEqual(readdirSync(place.path), []);
		}
	});
}

Deno.test("without locks, the process of a lock counts, also one of another machine", () => {
	using place = new TemporaryFolder();
	const path = join(place.path, FOLDER_LOCK);
	writeFileSync(path, JSON.stringify({ pid: 1, host: hostname() }));
	assert.throws(() => FolderLock.take(place.path, LOCKLESS), FolderInUse);
	writeFileSync(path, JSON.stringify({ pid: 7, host: "elsewhere" }));
	assert.throws(
		() => FolderLock.take(place.path, LOCKLESS),
		new FolderInUse(
			`The folder "${place.path}" is in use: process 7 on "elsewhere" writes to it; wait until it ` +
				`has ended or choose another output; if it is long gone, remove "${path}"`,
		),
	);
});

Deno.test("a link in the lock's place is replaced, and what it leads to is kept", () => {
	using place = new TemporaryFolder();
	const victim = join(place.path, "victim");
	writeFileSync(victim, "mine");
	const folder = join(place.path, "out");
	mkdirSync(folder);
	symlinkSync(victim, join(folder, FOLDER_LOCK));
	FolderLock.take(folder)[Symbol.dispose]();
	assert.equal(readFileSync(victim, "utf8"), "mine");
	assert.deepEqual(readdirSync(folder), []);
});

Deno.test("a folder that cannot be locked is refused", () => {
	using place = new TemporaryFolder();
	const file = join(place.path, "file");
	writeFileSync(file, "");
	assert.throws(
		() => FolderLock.take(join(file, "out")),
		new UserError(
			`Cannot make the output folder "${file}/out": a part of the path is a file`,
		),
	);
	mkdirSync(join(place.path, "out", FOLDER_LOCK), { recursive: true });
	assert.throws(
		() => FolderLock.take(join(place.path, "out")),
		new UserError(`Cannot write "${join(place.path, "out", FOLDER_LOCK)}": it is a folder`),
	);
});
