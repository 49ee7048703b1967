/** The parts of an error of the API besides its message. */
export interface ApiErrorOptions {
	/** The field of the body that it is about: "messages[0].role". */
	param?: string;
	code?: string;
	headers?: Record<string, string>;
}

/** An error that the client gets, in the form of OpenAI's API. */
export class ApiError extends Error {
	override name = "ApiError";

	constructor(readonly status: number, message: string, readonly options: ApiErrorOptions = {}) {
		super(message);
	}

	/** The body of the response, and of an event in a stream that has begun. */
	get body(): Record<"error", Record<string, string | null>> {
		const { param = null, code = null } = this.options;
		return { error: { message: this.message, type: typeOf(this.status), param, code } };
	}

	get response(): Response {
		return Response.json(this.body, { status: this.status, headers: this.options.headers });
	}
}

function typeOf(status: number): string {
	if (status === 401) return "authentication_error";
	if (status === 403) return "permission_error";
	if (status === 429) return "rate_limit_error";
	return status < 500 ? "invalid_request_error" : "server_error";
}
