import { byteIds, byteToken } from "./characters.ts";
import { Members } from "./members.ts";
import { isTokenId } from "./tokenizer_settings.ts";

/** A model that turns words into token ids. */
export interface Vocabulary {
	readonly ids: ReadonlyMap<string, number>;
	/** Appends the ids of a word. */
	encode(word: string, ids: number[]): void;
}

/** Words whose ids a model keeps, and the longest of them in UTF-16 units. */
const CACHED_WORDS = 10_000;
const CACHED_LENGTH = 256;

/**
 * The model of a `tokenizer.json`.
 *
 * @throws {Error} If it, or an option of it, is not supported, or its members are inconsistent.
 */
export function vocabularyOf(json: unknown): Vocabulary {
	const members = new Members("model", json ?? null);
	const vocabulary = build(members);
	members.end();
	return vocabulary;
}

function build(members: Members): Vocabulary {
	const type = members.has("type") ? members.type : typeByMembers(members);
	switch (type) {
		case "BPE":
			return new BytePairs(members);
		case "Unigram":
			return new Unigram(members);
		case "WordLevel":
			return new WordLevel(members);
		case "WordPiece":
			return new WordPiece(members);
		default:
			throw new Error(`"model" is "${type}", which is not supported`);
	}
}

/** The kind of a model in early files, which do not name it. */
function typeByMembers(members: Members): string {
	if (members.has("merges")) return "BPE";
	if (members.has("unk_id")) return "Unigram";
	return members.has("continuing_subword_prefix") ? "WordPiece" : "WordLevel";
}

/** The map from tokens to ids in the member "vocab". */
function readVocab(members: Members): Map<string, number> {
	const vocab = members.value("vocab");
	if (typeof vocab !== "object" || vocab === null || Array.isArray(vocab)) {
		members.refuse("vocab", vocab, "a map from tokens to ids");
	}
	const ids = new Map<string, number>();
	for (const [token, id] of Object.entries(vocab as object)) {
		if (!isTokenId(id)) members.refuse(`vocab[${JSON.stringify(token)}]`, id, "a token id");
		ids.set(token, id);
	}
	return ids;
}

/** The id of the unknown token; undefined if none is named. */
function unknownId(members: Members, ids: ReadonlyMap<string, number>): number | undefined {
	const token = members.value("unk_token");
	if (token === undefined) return undefined;
	if (typeof token !== "string" || !ids.has(token)) {
		members.refuse("unk_token", token, "a token of the vocabulary");
	}
	return ids.get(token as string);
}

/** A whole word is a token, or unknown. */
class WordLevel implements Vocabulary {
	readonly ids: Map<string, number>;
	readonly #unknown: number;

	constructor(members: Members) {
		this.ids = readVocab(members);
		const unknown = unknownId(members, this.ids);
		if (unknown === undefined) members.refuse("unk_token", undefined, "a token of the vocabulary");
		this.#unknown = unknown!;
	}

	encode(word: string, ids: number[]): void {
		ids.push(this.ids.get(word) ?? this.#unknown);
	}
}

/** A word is cut into the longest tokens from the left, or is unknown as a whole. */
class WordPiece implements Vocabulary {
	readonly ids: Map<string, number>;
	readonly #unknown: number;
	readonly #prefix: string;
	/** Characters of the longest word that is cut. */
	readonly #longest: number;
	/** No token has more characters. */
	readonly #longestToken: number;

	constructor(members: Members) {
		this.ids = readVocab(members);
		this.#prefix = members.text("continuing_subword_prefix", "##");
		this.#longest = members.count("max_input_chars_per_word", 100);
		const unknown = unknownId(members, this.ids);
		if (unknown === undefined) members.refuse("unk_token", undefined, "a token of the vocabulary");
		this.#unknown = unknown!;
		let longest = 0;
		for (const token of this.ids.keys()) longest = Math.max(longest, token.length);
		this.#longestToken = longest;
	}

	encode(word: string, ids: number[]): void {
		const characters = Array.from(word);
		if (characters.length > this.#longest) return void ids.push(this.#unknown);
		const own: number[] = [];
		for (let start = 0; start < characters.length;) {
			let end = Math.min(characters.length, start + this.#longestToken);
			let id: number | undefined;
			for (; end > start; end--) {
				const part = (start > 0 ? this.#prefix : "") + characters.slice(start, end).join("");
				if ((id = this.ids.get(part)) !== undefined) break;
			}
			if (id === undefined) return void ids.push(this.#unknown);
			own.push(id);
			start = end;
		}
		for (const id of own) ids.push(id);
	}
}

/** A word is cut into the tokens with the greatest sum of scores. */
class Unigram implements Vocabulary {
	readonly ids: Map<string, number>;
	readonly #scores: number[];
	readonly #unknown: number | undefined;
	readonly #fallsBack: boolean;
	/** Characters of the longest token. */
	readonly #longest: number;
	readonly #unknownScore: number;

	constructor(members: Members) {
		const vocab = members.list("vocab");
		this.ids = new Map();
		this.#scores = [];
		let longest = 1;
		vocab.forEach((entry, id) => {
			const [token, score, ...more] = Array.isArray(entry) ? entry : [];
			if (typeof token !== "string" || typeof score !== "number" || more.length > 0) {
				members.refuse(`vocab[${id}]`, entry, "a token with its score");
			}
			this.ids.set(token, id);
			this.#scores.push(score);
			longest = Math.max(longest, token.length);
		});
		this.#longest = longest;
		this.#unknown = members.has("unk_id") ? members.count("unk_id") : undefined;
		members.ignore("unk_id");
		if (this.#unknown !== undefined && this.#unknown >= vocab.length) {
			members.refuse("unk_id", this.#unknown, "an id of the vocabulary");
		}
		this.#fallsBack = members.flag("byte_fallback", false);
		const hasByte = (byte: number) => this.ids.has(byteToken(byte));
		if (this.#unknown === undefined && !(this.#fallsBack && Array(256).keys().every(hasByte))) {
			members.refuse("unk_id", undefined, "an id of the vocabulary");
		}
		this.#unknownScore = this.#scores.reduce((a, b) => Math.min(a, b), Infinity) - 10;
	}

	encode(word: string, ids: number[]): void {
		const { length } = word;
		const scores = new Float64Array(length + 1);
		const starts = new Int32Array(length + 1).fill(-1);
		const tokens = new Int32Array(length + 1).fill(-1);
		for (let start = 0, size; start < length; start += size) {
			size = word.codePointAt(start)! > 0xffff ? 2 : 1;
			let isSingle = false;
			const reach = (end: number, id: number, score: number) => {
				const sum = score + scores[start];
				if (starts[end] >= 0 && sum <= scores[end]) return;
				[starts[end], tokens[end], scores[end]] = [start, id, sum];
			};
			const last = Math.min(length, start + this.#longest);
			for (let end = start + size; end <= last; end++) {
				const id = this.ids.get(word.slice(start, end));
				if (id === undefined) continue;
				reach(end, id, this.#scores[id]);
				isSingle ||= end === start + size;
			}
			if (!isSingle) reach(start + size, this.#unknown ?? -1, this.#unknownScore);
		}
		const parts: { start: number; end: number; id: number }[] = [];
		for (let end = length; end > 0; end = starts[end]) {
			const part = { start: starts[end], end, id: tokens[end] };
			const next = parts.at(-1);
			const isUnknown = part.id === (this.#unknown ?? -1);
			if (next && isUnknown && next.id === part.id) next.start = part.start;
			else parts.push(part);
		}
		for (const { start, end } of parts.reverse()) this.#push(word.slice(start, end), ids);
	}

	#push(part: string, ids: number[]): void {
		const id = this.ids.get(part);
		if (id !== undefined) return void ids.push(id);
		const bytes = this.#fallsBack ? byteIds(part, (token) => this.ids.get(token)) : undefined;
		if (bytes) { for (const id of bytes) ids.push(id); }
		else ids.push(this.#unknown!); // there, or all bytes are
	}
}

/** Two tokens that are joined. */
interface Merge {
	rank: number;
	id: number;
}

/** Characters are joined to longer tokens, pair by pair, in the order of the merges. */
class BytePairs implements Vocabulary {
	readonly ids: Map<string, number>;
	readonly #unknown: number | undefined;
	readonly #fuses: boolean;
	readonly #fallsBack: boolean;
	readonly #takesWhole: boolean;
	readonly #prefix: string;
	readonly #suffix: string;
	/** By left id, then by right id. */
	readonly #merges = new Map<number, Map<number, Merge>>();
	readonly #known = new Map<string, number[]>();

	constructor(members: Members) {
		this.ids = readVocab(members);
		this.#unknown = unknownId(members, this.ids);
		this.#fuses = members.flag("fuse_unk", false);
		this.#fallsBack = members.flag("byte_fallback", false);
		this.#takesWhole = members.flag("ignore_merges", false);
		this.#prefix = members.text("continuing_subword_prefix", "");
		this.#suffix = members.text("end_of_word_suffix", "");
		const dropout = members.value("dropout");
		if (dropout !== undefined && dropout !== 0) members.refuse("dropout", dropout, "0");
		const merges = members.list("merges");
		if (merges.length > MOST_MERGES) {
			members.refuse("merges", merges.length, `of at most ${MOST_MERGES}`);
		}
		merges.forEach((merge, rank) => this.#add(members, merge, rank));
	}

	#add(members: Members, merge: unknown, rank: number): void {
		const pair = typeof merge === "string" ? merge.split(" ") : merge;
		if (!Array.isArray(pair) || pair.length !== 2 || !pair.every((x) => typeof x === "string")) {
			members.refuse(`merges[${rank}]`, merge, "two tokens");
		}
		const [left, right] = pair as string[];
		const joined = left + right.slice(this.#prefix.length);
		const idOf = (token: string): number => {
			const id = this.ids.get(token);
			if (id === undefined) {
				members.refuse(
					`merges[${rank}]`,
					merge,
					`of tokens of the vocabulary: it lacks "${token}"`,
				);
			}
			return id!;
		};
		const [a, b, id] = [left, right, joined].map(idOf);
		const known = this.#merges.get(a);
		if (known) known.set(b, { rank, id });
		else this.#merges.set(a, new Map([[b, { rank, id }]]));
	}

	encode(word: string, ids: number[]): void {
		const known = this.#known.get(word);
		if (known) {
			for (const id of known) ids.push(id);
			return;
		}
		const whole = this.#takesWhole ? this.ids.get(word) : undefined;
		const own = whole === undefined ? this.#merged(this.#symbols(word)) : [whole];
		for (const id of own) ids.push(id);
		if (word.length > CACHED_LENGTH) return;
		if (this.#known.size >= CACHED_WORDS) this.#known.clear();
		this.#known.set(word, own);
	}

	/** The ids of the characters. */
	#symbols(word: string): number[] {
		const symbols: number[] = [];
		let isUnknown = false; // whether an unknown one is to be appended
		const flush = () => {
			if (isUnknown) symbols.push(this.#unknown!);
			isUnknown = false;
		};
		for (let start = 0, end; start < word.length; start = end) {
			end = start + (word.codePointAt(start)! > 0xffff ? 2 : 1);
			let symbol = word.slice(start, end);
			if (start > 0) symbol = this.#prefix + symbol;
			if (end === word.length) symbol += this.#suffix;
			const id = this.ids.get(symbol);
			if (id !== undefined) {
				flush();
				symbols.push(id);
				continue;
			}
			const bytes = this.#fallsBack ? byteIds(symbol, (token) => this.ids.get(token)) : undefined;
			if (bytes) {
				for (const byte of bytes) symbols.push(byte); // before an unknown one that is pending, as in the Rust library
				continue;
			}
			if (this.#unknown === undefined) continue;
			if (!this.#fuses) flush();
			isUnknown = true;
		}
		flush();
		return symbols;
	}

	#mergeOf(left: number, right: number): Merge | undefined {
		return this.#merges.get(left)?.get(right);
	}

	/** Joins pairs as long as there are any: the lowest rank first, of equal ones the leftmost. */
	#merged(symbols: number[]): number[] {
		const count = symbols.length;
		if (count < 2) return symbols;
		const next = new Int32Array(count);
		const before = new Int32Array(count);
		const queue = new MergeQueue();
		const offer = (at: number) => {
			const merge = next[at] < count ? this.#mergeOf(symbols[at], symbols[next[at]]) : undefined;
			if (merge) queue.push(merge.rank, at);
		};
		for (let i = 0; i < count; i++) [next[i], before[i]] = [i + 1, i - 1];
		for (let i = 0; i < count - 1; i++) offer(i);
		for (let top; (top = queue.pop());) {
			const { rank, at } = top;
			const right = next[at];
			if (symbols[at] < 0 || right >= count) continue;
			const merge = this.#mergeOf(symbols[at], symbols[right]);
			if (merge?.rank !== rank) continue; // the pair has changed since
			symbols[at] = merge.id;
			symbols[right] = -1;
			next[at] = next[right];
			if (next[at] < count) before[next[at]] = at;
			if (before[at] >= 0) offer(before[at]);
			offer(at);
		}
		return symbols.filter((id) => id >= 0);
	}
}

/** Places in a word are below this, as a text is in JavaScript. */
const PLACES = 2 ** 30;
/** Merges have ranks below this, so that rank and place make one number exactly. */
const MOST_MERGES = 2 ** 53 / PLACES;

/**
 * A heap of merges: the lowest rank first, of equal ones the leftmost. Rank and place are one number, since
 * words can have millions of characters.
 */
class MergeQueue {
	readonly #heap: number[] = [];

	push(rank: number, at: number): void {
		const heap = this.#heap;
		const merge = PLACES * rank + at;
		let place = heap.length;
		heap.push(merge);
		while (place > 0) {
			const parent = (place - 1) >> 1;
			if (merge >= heap[parent]) break;
			heap[place] = heap[parent];
			place = parent;
		}
		heap[place] = merge;
	}

	pop(): { rank: number; at: number } | undefined {
		const heap = this.#heap;
		const last = heap.pop();
		if (last === undefined) return undefined;
		const top = heap.length > 0 ? heap[0] : last;
		let place = 0;
		while (heap.length > 0) {
			let child = 2 * place + 1;
			if (child + 1 < heap.length && heap[child + 1] < heap[child]) child++;
			if (!(heap[child] < last)) {
				heap[place] = last;
				break;
			}
			heap[place] = heap[child];
			place = child;
		}
		return { rank: Math.floor(top / PLACES), at: top % PLACES };
	}
}
