export interface HttpRequest {
	method: string;
	target: string;
	headers: Headers;
	body: Uint8Array;
}

/** What a server answers, and how it fails at it. */
export interface HttpReply {
	status: number;
	headers: Record<string, string>;
	body: Uint8Array;
	/** Bytes of the body after which the connection is closed; -1 is before the status line. */
	cutAt?: number;
	/** Bytes of the body after which nothing follows, with the connection left open. */
	stallAt?: number;
	/** The body is sent in four pieces, each after a pause of so long. */
	pauseMs?: number;
}

/**
 * An HTTP/1.1 server on the loopback interface that writes its answers byte by byte as told, also
 * such as no good server would give. It closes each connection after one answer.
 */
export class HttpServer implements AsyncDisposable {
	readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
	readonly #connections = new Set<Deno.Conn>();
	readonly #running: Promise<void>;
	readonly #answers = new Set<Promise<void>>();
	#error: unknown;
	#closed = false;

	constructor(readonly answer: (request: HttpRequest) => HttpReply | Promise<HttpReply>) {
		this.#running = this.#run();
	}

	get url(): string {
		return `http://127.0.0.1:${this.#listener.addr.port}`;
	}

	/** Ends all connections; throws what a handler has thrown. */
	async [Symbol.asyncDispose](): Promise<void> {
		if (this.#closed) return;
		this.#closed = true;
		this.#listener.close();
		for (const connection of this.#connections) close(connection);
		await this.#running;
		await Promise.all(this.#answers);
		if (this.#error !== undefined) throw this.#error;
	}

	async #run(): Promise<void> {
		try {
			for await (const connection of this.#listener) {
				this.#connections.add(connection);
				const answer: Promise<void> = this.#serve(connection).finally(() => {
					this.#answers.delete(answer);
				});
				this.#answers.add(answer);
			}
		} catch (error) {
			if (!(error instanceof Deno.errors.BadResource)) throw error; // closed
		}
	}

	async #serve(connection: Deno.Conn): Promise<void> {
		let stalled = false;
		try {
			const request = await readRequest(connection);
			if (request === undefined) return;
			let reply: HttpReply;
			try {
				reply = await this.answer(request);
			} catch (error) {
				this.#error ??= error;
				return;
			}
			stalled = await writeReply(connection, request, reply);
		} catch (error) {
			// The client has gone away, which is its right.
			if (
				!(error instanceof Deno.errors.ConnectionReset) &&
				!(error instanceof Deno.errors.BrokenPipe) &&
				!(error instanceof Deno.errors.BadResource) &&
				!(error instanceof Deno.errors.Interrupted)
			) {
				this.#error ??= error;
			}
		} finally {
			if (!stalled) {
				this.#connections.delete(connection);
				close(connection);
			}
		}
	}
}

async function readRequest(connection: Deno.Conn): Promise<HttpRequest | undefined> {
	let received = new Uint8Array(0);
	const more = async () => {
		const buffer = new Uint8Array(16384);
		const count = await connection.read(buffer);
		if (count === null) return false;
		const joined = new Uint8Array(received.length + count);
		joined.set(received);
		joined.set(buffer.subarray(0, count), received.length);
		received = joined;
		return true;
	};
	let end: number;
	// The head is ASCII, so characters are bytes.
	while ((end = new TextDecoder("latin1").decode(received).indexOf("\r\n\r\n")) < 0) {
		if (!await more()) return undefined;
	}
	const [first, ...lines] = new TextDecoder("latin1").decode(received.subarray(0, end))
		.split("\r\n");
	const [method, target] = first.split(" ");
	const headers = new Headers(lines.map((line) => {
		const colon = line.indexOf(":");
		return [line.slice(0, colon), line.slice(colon + 1).trim()];
	}));
	const bodyEnd = end + 4 + Number(headers.get("Content-Length") ?? 0);
	while (received.length < bodyEnd) if (!await more()) return undefined;
	return { method, target, headers, body: received.slice(end + 4, bodyEnd) };
}

/** Returns whether the connection is to be left open. */
async function writeReply(
	connection: Deno.Conn,
	{ method }: HttpRequest,
	{ status, headers, body, cutAt, stallAt, pauseMs }: HttpReply,
): Promise<boolean> {
	if (cutAt === -1) return false;
	const all: Record<string, string> = {
		"Content-Length": String(body.length),
		"Connection": "close",
		...headers,
	};
	const head = [`HTTP/1.1 ${status} ${status < 400 ? "OK" : "Trouble"}`];
	// A header that is set to nothing is not sent.
	for (const [name, value] of Object.entries(all)) if (value !== "") head.push(`${name}: ${value}`);
	await writeAll(connection, new TextEncoder().encode(head.join("\r\n") + "\r\n\r\n"));
	const sent = method === "HEAD" ? 0 : cutAt ?? stallAt ?? body.length;
	const pieces = pauseMs === undefined ? 1 : 4;
	for (let piece = 0; piece < pieces; piece++) {
		if (pauseMs !== undefined) await new Promise((resolve) => setTimeout(resolve, pauseMs));
		const [from, to] = [piece, piece + 1].map((n) => Math.floor(sent * n / pieces));
		await writeAll(connection, body.subarray(from, to));
	}
	return stallAt !== undefined;
}

async function writeAll(connection: Deno.Conn, bytes: Uint8Array): Promise<void> {
	for (let from = 0; from < bytes.length;) {
		from += await connection.write(bytes.subarray(from, from + 65536));
	}
}

function close(connection: Deno.Conn): void {
	try {
		connection.close();
	} catch (error) {
		if (!(error instanceof Deno.errors.BadResource)) throw error; // closed already
	}
}
