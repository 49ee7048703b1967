import { UserError } from "../../base/errors.ts";
import type { PlannedStage } from "../config/config.ts";
import type { GroupContext, LinearContext, ModelContext, Stage } from "../stage.ts";

/** The failure of a custom stage, with the place of the model where it failed. */
export class StageError extends UserError {
	override name = "StageError";

	constructor(module: string, place: string, error: unknown) {
		const { name, message } = error instanceof Error ? error : new Error(String(error));
		super(`the stage of "${module}" has failed${place}: ${name}: ${message}`, { cause: error });
	}
}

const HOOKS = [
	...["inputs", "restore", "check", "plan", "run"],
	...["transform", "observe", "endLayer", "finish"],
];

/** The stage itself, or for a custom one the same whose errors say where they happened. */
export function guardStage(planned: PlannedStage<Stage>): PlannedStage<Stage> {
	const { stage, module } = planned;
	if (module === undefined) return planned;
	// deno-lint-ignore no-explicit-any -- hooks differ by scope
	const guarded: any = Object.create(stage);
	for (const hook of HOOKS) {
		const own = (stage as unknown as Record<string, unknown>)[hook];
		if (typeof own !== "function") continue;
		guarded[hook] = async (context: ModelContext, ...rest: unknown[]) => {
			try {
				return await own.call(stage, context, ...rest);
			} catch (error) {
				context.signal.throwIfAborted();
				const place = placeOf(context);
				if (!(error instanceof UserError)) throw new StageError(module, place, error);
				const message = `Stage "${stage.name}"${place}: ${error.message}`;
				throw error instanceof StageError ? error : new UserError(message, { cause: error });
			}
		};
	}
	return { ...planned, stage: guarded };
}

/** The decoder layer and the linear layers of a context, in words. */
function placeOf(context: Partial<GroupContext & LinearContext>): string {
	const { layer, linear, linears = [] } = context;
	if (!layer) return "";
	const modules = linear ? [linear] : linears;
	return [` in layer ${layer.index + 1}`, ...modules.map(({ module }) => module)].join(", ");
}
