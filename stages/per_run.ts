import type { ModelContext } from "../pipeline/stage.ts";

/** A function that computes each value once per run, by its key, however often it is requested. */
export function perRun<Value>(): (
	context: ModelContext,
	key: unknown,
	make: () => Promise<Value>,
) => Promise<Value> {
	const known = new WeakMap<ModelContext, Map<string, Promise<Value>>>();
	return (context, key, make) => {
		const ofRun = known.get(context) ?? new Map<string, Promise<Value>>();
		known.set(context, ofRun);
		const text = JSON.stringify(key);
		const value = ofRun.get(text) ?? make();
		ofRun.set(text, value);
		return value;
	};
}
