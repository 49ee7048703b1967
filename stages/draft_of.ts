import type { Draft } from "../codecs/codec.ts";
import { UserError } from "../base/errors.ts";
import type { LinearLayer } from "../pipeline/stage.ts";

/**
 * The draft of a linear layer, made when its first block is reached.
 *
 * @param Kind The class that it must have.
 * @throws {UserError} If an earlier stage has turned the linear layer into something else.
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
