import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { TemporaryFolder } from "../temporary_folder.ts";

const COMMANDS = ["chromium", "chromium-browser", "google-chrome", "chrome"];

/** How a page is looked at. */
export interface View {
	width: number;
	height: number;
	scheme: "light" | "dark";
}

type Reply = { result?: Record<string, unknown>; error?: { message: string } };

/** A headless Chromium with one page, spoken to over its DevTools protocol. */
export class Chromium {
	#next = 1;
	readonly #waiting = new Map<number, (reply: Reply) => void>();
	readonly #events: { method: string; params: Record<string, unknown> }[] = [];

	private constructor(
		readonly child: Deno.ChildProcess,
		readonly folder: TemporaryFolder,
		readonly socket: WebSocket,
		/** The address of its DevTools. */
		readonly tools: string,
	) {
		socket.onmessage = ({ data }) => {
			const message = JSON.parse(data);
			if (message.id === undefined) this.#events.push(message);
			else this.#waiting.get(message.id)?.(message);
		};
	}

	/**
	 * @param flags Of the command line, beside those that it always has.
	 * @param folder Of its profile, which closing removes.
	 * @throws {Error} If there is no browser; `CHROMIUM` names one that has another name.
	 */
	static async open(
		flags: readonly string[] = ["--disable-gpu"],
		folder = new TemporaryFolder(),
	): Promise<Chromium> {
		const command = Deno.env.get("CHROMIUM") ?? COMMANDS.find(isCommand);
		if (!command) {
			throw new Error(
				`There is no Chromium (${COMMANDS.join(", ")}): install it, or name it in CHROMIUM`,
			);
		}
		const portFile = join(folder.path, "DevToolsActivePort");
		rmSync(portFile, { force: true }); // of a browser that was killed
		const child = new Deno.Command(command, {
			args: [
				"--headless",
				"--no-sandbox",
				...flags,
				"--hide-scrollbars",
				"--remote-debugging-port=0",
				`--user-data-dir=${folder.path}`,
				"about:blank",
			],
			stdout: "null",
			stderr: "null",
		}).spawn();
		for (let tries = 0; !existsSync(portFile) || readFileSync(portFile, "utf8") === ""; tries++) {
			if (tries === 200) throw new Error(`"${command}" did not start in 20 s`);
			await setTimeout(100);
		}
		const [port] = readFileSync(portFile, "utf8").split("\n");
		const tools = `http://127.0.0.1:${port}/json`;
		const pages = await (await fetch(`${tools}/list`)).json();
		const page = pages.find(({ type }: { type: string }) => type === "page");
		return await Chromium.#connect(child, folder, page.webSocketDebuggerUrl, tools);
	}

	static async #connect(
		child: Deno.ChildProcess,
		folder: TemporaryFolder,
		url: string,
		tools: string,
	): Promise<Chromium> {
		const socket = new WebSocket(url);
		await new Promise((resolve, reject) => {
			socket.onopen = resolve;
			socket.onerror = reject;
		});
		const chromium = new Chromium(child, folder, socket, tools);
		for (const domain of ["Page", "Runtime", "Log", "Network"]) {
			await chromium.send(`${domain}.enable`);
		}
		return chromium;
	}

	/** Another tab of the same browser, which is closed with it. */
	async openTab(): Promise<Chromium> {
		const { webSocketDebuggerUrl } = await (await fetch(`${this.tools}/new`, { method: "PUT" }))
			.json();
		return await Chromium.#connect(this.child, this.folder, webSocketDebuggerUrl, this.tools);
	}

	/** Calls a method of the protocol. */
	async send(method: string, params: Record<string, unknown> = {}) {
		const id = this.#next++;
		const reply = new Promise<Reply>((resolve) => this.#waiting.set(id, resolve));
		this.socket.send(JSON.stringify({ id, method, params }));
		const { result, error } = await reply;
		this.#waiting.delete(id);
		if (error) throw new Error(`${method}: ${error.message}`);
		return result!;
	}

	/** Opens a page; what an earlier one has said is forgotten. */
	async show(url: string, { width, height, scheme }: View): Promise<void> {
		await this.send("Emulation.setDeviceMetricsOverride", {
			width,
			height,
			deviceScaleFactor: 1,
			mobile: width < 600,
		});
		await this.send("Emulation.setEmulatedMedia", {
			features: [{ name: "prefers-color-scheme", value: scheme }],
		});
		this.#events.length = 0;
		await this.send("Page.navigate", { url });
		const isThere = `document.readyState === "complete" && location.href === ${
			JSON.stringify(url)
		}`;
		while (!await this.evaluate<boolean>(isThere).catch(() => false)) await setTimeout(20);
	}

	/** What the page had to complain about, and the addresses that it asked for beside its own. */
	complaints(): string[] {
		return this.#events.flatMap(({ method, params }) => {
			if (method === "Runtime.exceptionThrown") return [JSON.stringify(params.exceptionDetails)];
			if (method === "Runtime.consoleAPICalled") return [JSON.stringify(params.args)];
			if (method === "Log.entryAdded") return [JSON.stringify(params.entry)];
			if (method === "Network.requestWillBeSent" && params.type !== "Document") {
				return [JSON.stringify(params.request)];
			}
			return [];
		});
	}

	/** The value of an expression in the page; a promise is waited for. */
	async evaluate<Value>(expression: string): Promise<Value> {
		const { result, exceptionDetails } = await this.send("Runtime.evaluate", {
			expression,
			awaitPromise: true,
			returnByValue: true,
		}) as { result: { value: Value }; exceptionDetails?: unknown };
		if (exceptionDetails) throw new Error(JSON.stringify(exceptionDetails));
		return result.value;
	}

	/** A picture of the whole page, PNG. */
	async picture(): Promise<Uint8Array> {
		const { data } = await this.send("Page.captureScreenshot", { captureBeyondViewport: true });
		return Uint8Array.fromBase64(data as string);
	}

	/** The page on paper. */
	async pdf(): Promise<Uint8Array> {
		const { data } = await this.send("Page.printToPDF", { printBackground: false });
		return Uint8Array.fromBase64(data as string);
	}

	/** Ends the browser at once, as a crash does; its profile stays. */
	async kill(): Promise<void> {
		this.child.kill("SIGKILL");
		await this.child.status;
		await setTimeout(500); // its helpers end when they notice
	}

	/** Ends the browser; nothing can be shown any more. */
	async close(): Promise<void> {
		await this.send("Browser.close").catch(() => {});
		await this.child.status;
		await setTimeout(200); // its helpers may still write into the folder
		this.folder[Symbol.dispose]();
	}
}

function isCommand(name: string): boolean {
	return (Deno.env.get("PATH") ?? "").split(":").some((folder) => existsSync(join(folder, name)));
}
