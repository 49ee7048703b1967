import type {
	ChatMessage,
	ContinueOptions,
	GenerationEnd,
	ModelSource,
	StoredModel,
} from "../web.ts";

/** What the page asks of its worker. */
export type Question =
	| { type: "list" }
	| { type: "load"; from: ModelPlace }
	| { type: "cancel" }
	| { type: "unload" }
	| { type: "remove"; key: string }
	| { type: "generate"; input: Input; options: Options }
	| { type: "stop" };

/** Where a model is: on a server, in the browser's storage, or in files that the user has chosen. */
export type ModelPlace =
	| { source: ModelSource }
	| { key: string }
	| { name: string; files: Map<string, File> };

/** A prompt to continue, or a conversation to answer. */
export type Input = { prompt: string } | { messages: ChatMessage[] };

export type Options = Omit<ContinueOptions, "signal" | "caches">;

/** What is known of a loaded model. */
export interface Loaded {
	name: string;
	hasChat: boolean;
	maxLength: number;
	/** The name of the adapter as the browser gives it, which may be empty. */
	adapter: string;
	isSoftware: boolean;
	hasSubgroups: boolean;
	gpuBytes: number;
	seconds: number;
}

/** What the worker says. */
export type Answer =
	| { type: "models"; models: StoredModel[] }
	| { type: "progress"; text: string; done?: number; total?: number }
	| { type: "notice"; text: string }
	| { type: "loaded"; model: Loaded }
	| { type: "unloaded" }
	| { type: "text"; text: string; tokens: number }
	| { type: "end"; end: GenerationEnd; gpuBytes: number }
	| { type: "failed"; what: "list" | "load" | "remove" | "generate"; text: string };
