import { Tensor } from "../../gpu/tensor.ts";
import type { ArtifactName, Artifacts, ModelContext } from "../stage.ts";

/** The artifacts of one scope, on top of those of the enclosing scopes. */
export class ArtifactStore implements Disposable {
	readonly #own = new Map<ArtifactName, unknown>();

	/** @param parent The store of the enclosing scope. */
	constructor(public parent?: ArtifactStore) {}

	find<Name extends ArtifactName>(name: Name): Artifacts[Name] | undefined {
		return (this.#own.get(name) as Artifacts[Name] | undefined) ?? this.parent?.find(name);
	}

	get<Name extends ArtifactName>(name: Name): Artifacts[Name] {
		const value = this.find(name);
		if (value === undefined) throw new Error(`No stage has given "${name}" so far`);
		return value;
	}

	/** Sets an artifact of this scope; a tensor that it replaces is freed. */
	set<Name extends ArtifactName>(name: Name, value: Artifacts[Name]): void {
		const before = this.#own.get(name);
		if (before instanceof Tensor && before !== value) before[Symbol.dispose]();
		this.#own.set(name, value);
	}

	[Symbol.dispose](): void {
		for (const value of this.#own.values()) if (value instanceof Tensor) value[Symbol.dispose]();
		this.#own.clear();
	}
}

/** The methods of a context that access the artifacts of a scope. */
export function access(store: ArtifactStore): Pick<ModelContext, "get" | "find" | "set"> {
	return {
		get: (name) => store.get(name),
		find: (name) => store.find(name),
		set: (name, value) => store.set(name, value),
	};
}
