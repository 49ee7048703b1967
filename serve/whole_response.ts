/**
 * A response in JSON that may take long. If it does, its body begins with a space in each period, which JSON
 * allows: Deno does not always notice that a client has left before something is written, and proxies give
 * up connections without data.
 *
 * @param period Milliseconds.
 * @param left Called if the client leaves.
 * @param failed Called with what the value is rejected with after the first period.
 * @throws What the value is rejected with within the first period; later, the body breaks off.
 */
export async function wholeResponse(
	value: Promise<unknown>,
	period: number,
	left: (reason: Error) => void,
	failed: (error: unknown) => void,
): Promise<Response> {
	const { promise: late, resolve } = Promise.withResolvers<boolean>();
	const first = setTimeout(() => resolve(true), period);
	try {
		const isLate = await Promise.race([late, value.then(() => false)]);
		if (!isLate) return Response.json(await value);
	} finally {
		clearTimeout(first);
	}
	let beat: ReturnType<typeof setInterval>;
	let isOpen = true;
	const body = new ReadableStream<Uint8Array<ArrayBuffer>>({
		start(controller) {
			const send = (text: string) => controller.enqueue(new TextEncoder().encode(text));
			send(" ");
			beat = setInterval(() => send(" "), period);
			value.then((value) => {
				clearInterval(beat);
				if (isOpen) send(JSON.stringify(value));
				if (isOpen) controller.close();
			}, (error) => {
				clearInterval(beat);
				if (!isOpen) return;
				failed(error);
				controller.error(error);
			});
		},
		cancel() {
			isOpen = false;
			clearInterval(beat);
			left(new Error("The client has left"));
		},
	});
	return new Response(body, { headers: { "Content-Type": "application/json" } });
}
