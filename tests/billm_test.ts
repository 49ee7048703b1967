import assert from "node:assert/strict";
import {
	chmodSync,
	copyFileSync,
	existsSync,
	mkdirSync,
	mkdtempSync,
	readFileSync,
	realpathSync,
	rmSync,
	symlinkSync,
	writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";

/** What the launcher calls and the tests leave as it is. */
const TOOLS = ["cat", "dirname", "env", "grep", "head", "readlink", "sed", "sort"];

/** Where a machine has commands of its own. */
function findCommand(name: string): string | undefined {
	const folders = [...(Deno.env.get("PATH") ?? "").split(delimiter), "/usr/bin", "/bin"];
	return folders.map((folder) => join(folder, name)).find((path) => existsSync(path));
}

const SHELLS = ["sh", "dash", "bash"].filter((name) => findCommand(name) !== undefined);

/** What the machine of a test looks like. */
interface Machine {
	/** What `deno --version` prints; undefined: there is no deno. */
	deno?: string;
	npx?: boolean;
	system?: string;
	user?: number;
	sudo?: boolean;
	apt?: boolean;
	/** A driver lies where Vulkan looks for one. */
	driver?: boolean;
	loader?: boolean;
	env?: Record<string, string>;
	/** Where a symbolic link leads that the launcher is started through. */
	link?: string;
	/** Exit codes of commands, 0 unless told otherwise. */
	codes?: Record<string, number>;
}

interface Launch {
	code: number;
	stdout: string;
	stderr: string;
	/** Each command that was called, with its arguments. */
	calls: string[][];
	/** INIT_CWD of the call that ran the task. */
	callersFolder: string;
}

/** Runs the launcher with an own PATH, in which every command writes down what it is called with. */
function launch(machine: Machine, args: string[], shell: string): Launch {
	const {
		deno,
		npx = true,
		system = "Linux",
		user = 0,
		sudo = false,
		apt = true,
		driver = true,
		loader = true,
		env = {},
		link,
		codes = {},
	} = machine;
	const root = realpathSync(mkdtempSync(join(tmpdir(), "billm-launcher-")));
	try {
		const [bin, project, work] = ["bin", "my project", "work here"].map((name) => join(root, name));
		[bin, project, work].forEach((folder) => mkdirSync(folder));
		const log = join(root, "log");
		writeFileSync(log, "");
		for (const tool of TOOLS) symlinkSync(findCommand(tool)!, join(bin, tool));
		const command = (name: string, body: string) => {
			const path = join(bin, name);
			writeFileSync(path, `#!/bin/sh\n${body}\nexit ${codes[name] ?? 0}\n`);
			chmodSync(path, 0o755);
		};
		const writesDown = (name: string) =>
			`printf '%s\\036' '${name}' "$@" >> '${log}'; printf '\\035' >> '${log}'\n` +
			`printf '%s' "\${INIT_CWD:-}" > '${log}.folder'`;
		if (deno !== undefined) {
			const answer = `if [ "$1" = --version ]; then printf '%s\\n' '${deno}'; exit 0; fi`;
			command("deno", `${answer}\n${writesDown("deno")}`);
		}
		if (npx) command("npx", writesDown("npx"));
		if (apt) command("apt-get", writesDown("apt-get"));
		if (sudo) command("sudo", writesDown("sudo"));
		command("id", `echo ${user}`);
		command("uname", `echo ${system}`);
		command("ldconfig", loader ? "echo '	libvulkan.so.1 (libc6) => /lib/libvulkan.so.1'" : ":");
		const drivers = join(root, "usr/share/vulkan/icd.d");
		mkdirSync(drivers, { recursive: true });
		if (driver) writeFileSync(join(drivers, "driver.json"), "{}");

		const text = readFileSync(join(import.meta.dirname!, "../billm"), "utf8");
		const moved = text.replaceAll(/ (\/(usr|etc)\/[a-z/]*vulkan)/g, ` ${root}$1`);
		assert.equal(moved.split(root).length, 4, "all places of drivers are the test's own");
		writeFileSync(join(project, "billm"), moved);
		copyFileSync(join(import.meta.dirname!, "../deno.json"), join(project, "deno.json"));
		const started = join(link ? work : project, "billm");
		if (link) symlinkSync(link, started);

		const { code, stdout, stderr } = new Deno.Command(findCommand(shell)!, {
			args: [started, ...args],
			cwd: work,
			clearEnv: true,
			env: { PATH: bin, HOME: root, ...env },
		}).outputSync();
		const calls = readFileSync(log, "utf8").split("\x1d").slice(0, -1)
			.map((call) => call.split("\x1e").slice(0, -1))
			.map((words) => words.map((word) => word.replace(project, "PROJECT")));
		const folder = existsSync(`${log}.folder`) ? readFileSync(`${log}.folder`, "utf8") : "";
		return {
			code,
			stdout: new TextDecoder().decode(stdout),
			stderr: new TextDecoder().decode(stderr),
			calls,
			callersFolder: folder.replace(work, "WORK"),
		};
	} finally {
		rmSync(root, { recursive: true, force: true });
	}
}

function test(what: string, check: (run: (machine: Machine, args?: string[]) => Launch) => void) {
	for (const shell of SHELLS) {
		Deno.test({
			name: `billm under ${shell}: ${what}`,
			ignore: Deno.build.os === "windows",
			fn: () => check((machine, args = ["quantize", "a.yaml"]) => launch(machine, args, shell)),
		});
	}
}

const NEW =
	"deno 2.9.6 (stable, release, x86_64-unknown-linux-gnu)\nv8 15.0.245.2\ntypescript 6.0.3";
const OLD =
	"deno 2.3.1 (stable, release, x86_64-unknown-linux-gnu)\nv8 13.7.152.6\ntypescript 5.8.3";
const TASK = ["task", "--quiet", "--cwd", "PROJECT", "quantize", "a.yaml"];
const INSTALLING =
	"billm: no Vulkan driver found: installing Mesa's software driver (mesa-vulkan-drivers, libvulkan1)\n";
const PACKAGES = [
	"install",
	"-y",
	"-qq",
	"--no-install-recommends",
	"mesa-vulkan-drivers",
	"libvulkan1",
];

test("a Deno that is new enough runs the task, from the caller's folder", (run) => {
	for (const deno of [NEW, "deno 2.9.0", "deno 2.10.1", "deno 3.0.0", "deno 2.9.0-rc.1+0a1b2c3"]) {
		const { code, stderr, calls, callersFolder } = run({ deno });
		assert.deepEqual([code, stderr], [0, ""]);
		assert.deepEqual(calls, [["deno", ...TASK]]);
		assert.equal(callersFolder, "WORK");
	}
});

test("an old, a broken or no Deno is fetched by npx", (run) => {
	for (const deno of [OLD, "deno 2.8.99", "deno 1.46.3", "", undefined]) {
		const { code, stderr, calls, callersFolder } = run({ deno });
		assert.equal(
			stderr,
			"billm: no Deno 2.9 or later found: running Deno 2.9.6 through npx\n",
		);
		assert.deepEqual([code, calls], [0, [["npx", "-y", "deno@2.9.6", ...TASK]]]);
		assert.equal(callersFolder, "WORK");
	}
});

test("without Deno and npx it says what to install", (run) => {
	for (const deno of [OLD, undefined]) {
		const { code, stderr, calls } = run({ deno, npx: false, driver: false });
		assert.equal(
			stderr,
			"billm: neither Deno 2.9 or later nor Node (npx) was found; " +
				"install one: https://deno.com or https://nodejs.org\n",
		);
		assert.deepEqual([code, calls], [1, []]);
	}
});

test("without arguments it prints the usage", (run) => {
	const { code, stderr, calls } = run({ deno: NEW }, []);
	assert.match(
		stderr,
		/^billm: usage: (.*billm) COMMAND \[ARGUMENTS\], .*; \1 help lists the commands\n$/,
	);
	assert.deepEqual([code, calls], [2, []]);
});

test("what is no task goes to tasks/billm.ts; nothing is installed, nor for help", (run) => {
	for (
		const args of [["help"], ["--help"], ["--version"], ["quantise", "a b"], ["q.antize"], ["yaml"]]
	) {
		const { code, stderr, calls } = run({ deno: NEW, driver: false }, args);
		assert.deepEqual([code, stderr], [0, ""]);
		assert.deepEqual(calls, [["deno", "run", "-A", "PROJECT/tasks/billm.ts", ...args]]);
	}
	const { stderr, calls } = run({ deno: NEW, driver: false }, ["quantize", "--help"]);
	assert.deepEqual([stderr, calls], [
		"",
		[["deno", "task", "--quiet", "--cwd", "PROJECT", "quantize", "--help"]],
	]);
});

test("it works through symbolic links", (run) => {
	for (const link of ["../my project/billm", "../bin/../my project/billm"]) {
		const { stderr, calls, callersFolder } = run({ deno: NEW, link });
		assert.deepEqual([stderr, calls, callersFolder], ["", [["deno", ...TASK]], "WORK"]);
	}
});

test("arguments arrive as they are, and the exit code goes back", (run) => {
	const args = [
		"quantize",
		"my file.yaml",
		"--set",
		"name=a b",
		"",
		"*",
		"$HOME",
		"a'b\"c\\",
		"é\n",
	];
	const words = ["task", "--quiet", "--cwd", "PROJECT", ...args];
	const withDeno = run({ deno: NEW, codes: { deno: 130 } }, args);
	assert.deepEqual([withDeno.code, withDeno.calls], [130, [["deno", ...words]]]);
	const withNpx = run({ codes: { npx: 2 } }, args);
	assert.deepEqual([withNpx.code, withNpx.calls], [2, [["npx", "-y", "deno@2.9.6", ...words]]]);
});

test("the caller's folder is the present one, not one of a program around it", (run) => {
	const { callersFolder } = run({ deno: NEW, env: { INIT_CWD: "/elsewhere" } });
	assert.equal(callersFolder, "WORK");
});

test("without a driver root installs Mesa's", (run) => {
	for (const machine of [{ driver: false }, { loader: false }]) {
		const { code, stderr, calls } = run({ deno: NEW, ...machine });
		assert.deepEqual([code, stderr], [0, INSTALLING]);
		assert.deepEqual(calls, [
			["apt-get", "update", "-qq"],
			["apt-get", ...PACKAGES],
			["deno", ...TASK],
		]);
	}
});

test("without a driver another user installs it through sudo", (run) => {
	const { code, stderr, calls } = run({ deno: NEW, driver: false, user: 1000, sudo: true });
	assert.deepEqual([code, stderr], [0, INSTALLING]);
	assert.deepEqual(calls, [
		["sudo", "apt-get", "update", "-qq"],
		["sudo", "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", ...PACKAGES],
		["deno", ...TASK],
	]);
});

test("a failed installation ends it", (run) => {
	const { code, calls } = run({ deno: NEW, driver: false, codes: { "apt-get": 100 } });
	assert.deepEqual([code, calls], [100, [["apt-get", "update", "-qq"]]]);
});

test("nothing is installed where that is not wanted, not possible or not needed", (run) => {
	const none = "billm: no Vulkan driver found";
	const expected: [Machine, string][] = [
		[
			{ driver: false, env: { BILLM_NO_INSTALL: "1" } },
			`${none}, and BILLM_NO_INSTALL=1 forbids to install one\n`,
		],
		[
			{ driver: false, apt: false },
			`${none}; install your GPU's, or Mesa's software driver (lavapipe)\n`,
		],
		[
			{ driver: false, user: 1000 },
			`${none}; as root: apt-get install mesa-vulkan-drivers libvulkan1\n`,
		],
		[{ driver: false, env: { VK_DRIVER_FILES: "/opt/driver.json" } }, ""],
		[{ driver: false, env: { VK_ICD_FILENAMES: "/opt/driver.json" } }, ""],
		[{ driver: false, loader: false, system: "Darwin" }, ""],
	];
	for (const [machine, text] of expected) {
		const { code, stderr, calls } = run({ deno: NEW, ...machine });
		assert.deepEqual([code, stderr, calls], [0, text, [["deno", ...TASK]]]);
	}
});
