import { ApiError } from "./api_error.ts";

/** What the body of a request may take. */
export interface BodyLimits {
	/** Bytes. */
	most: number;
	/** Milliseconds from the first byte to the last. */
	milliseconds: number;
}

/**
 * The JSON of a request's body.
 *
 * @throws {ApiError} If it is too long, comes too slowly, or is not JSON.
 */
export async function readBody(request: Request, limits: BodyLimits): Promise<unknown> {
	const type = request.headers.get("Content-Type") ?? "";
	if (!/^application\/json\s*(;|$)/i.test(type.trim())) { // other types need no leave of a browser
		throw new ApiError(
			415,
			`The body must have the Content-Type application/json, found ${type ? `"${type}"` : "none"}`,
		);
	}
	const bytes = await readBytes(request, limits);
	let text: string;
	try {
		text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
	} catch {
		throw new ApiError(400, "The body is not UTF-8");
	}
	try {
		return JSON.parse(text);
	} catch (error) {
		const reason = (error as Error).message.slice(0, 200);
		throw new ApiError(400, `The body is not JSON: ${reason}`);
	}
}

async function readBytes(request: Request, limits: BodyLimits): Promise<Uint8Array> {
	const tooLong = () => new ApiError(413, `The body may have at most ${limits.most} bytes`);
	if (Number(request.headers.get("Content-Length") ?? 0) > limits.most) throw tooLong();
	const reader = request.body?.getReader();
	const chunks: Uint8Array[] = [];
	let length = 0;
	let timer: ReturnType<typeof setTimeout> | undefined;
	const late = new Promise<never>((_, reject) => {
		const error = new ApiError(408, `The body took longer than ${limits.milliseconds / 1000} s`);
		timer = setTimeout(() => reject(error), limits.milliseconds);
	});
	try {
		while (reader) {
			const { done, value } = await Promise.race([reader.read(), late]);
			if (done) break;
			length += value.length;
			if (length > limits.most) throw tooLong();
			chunks.push(value);
		}
	} catch (error) {
		reader!.cancel().catch(() => {}); // a client that has gone cannot be told
		throw error instanceof ApiError ? error : new ApiError(400, "The body ended early");
	} finally {
		clearTimeout(timer);
	}
	const bytes = new Uint8Array(length);
	let at = 0;
	for (const chunk of chunks) {
		bytes.set(chunk, at);
		at += chunk.length;
	}
	return bytes;
}
