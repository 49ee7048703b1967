import type { Draft } from "../codecs/codec.ts";
import { UserError } from "../base/errors.ts";
import type { LinearLayer } from "../pipeline/stage.ts";

/**
 * The draft of a linear layer, created at its first block.
 *
 * @param Kind The required class.
 * @throws {UserError} If an earlier stage has created a draft of another class.
 */
export function draftOf<D extends Draft>(
	linear: LinearLayer,
	Kind: abstract new (...args: never[]) => D,
	make: () => D,
): D {
	const draft = linear.draft ??= make();
	if (draft instanceof Kind) return draft;
	throw new UserError(
		`"${linear.name}" is quantized already, as "${draft.codec.name}"; ` +
			`a chain may have one stage that quantizes`,
	);
}
