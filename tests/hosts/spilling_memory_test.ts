import assert from "node:assert/strict";
import { existsSync, readdirSync, statSync, truncateSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "~/base/errors.ts";
import type { KeptBytes } from "~/gpu/host.ts";
import { SpillingMemory, type SpillOptions } from "~/hosts/spilling_memory.ts";
import { nameOfTemporary } from "~/storage/files.ts";
import { noise } from "../hub/hub_place.ts";
import { seededRandom } from "../reference/random.ts";
import { TemporaryFolder } from "../temporary_folder.ts";

class Place implements Disposable {
	readonly #folder = new TemporaryFolder();
	readonly said: string[] = [];
	readonly memory: SpillingMemory;

	constructor(options: SpillOptions) {
		this.memory = new SpillingMemory(join(this.path, "activations"), {
			onSpill: (text) => this.said.push(text),
			...options,
		});
	}

	get path(): string {
		return this.#folder.path;
	}

	/** The file's size; undefined if there is none. */
	get fileBytes(): number | undefined {
		const names = readdirSync(this.path);
		assert.ok(names.length <= 1);
		assert.ok(names.every((name) => nameOfTemporary(name) === "activations"));
		return names.length > 0 ? statSync(join(this.path, names[0])).size : undefined;
	}

	[Symbol.dispose](): void {
		this.memory[Symbol.dispose]();
		this.#folder[Symbol.dispose]();
	}
}

const bytes = (length: number, seed = 1) => noise(length, seed) as Uint8Array<ArrayBuffer>;

for (const budget of [Infinity, 5000, 1000, 0]) {
	Deno.test(`what is kept is read again, with ${budget} bytes of memory`, () => {
		using place = new Place({ bytes: budget });
		const stores = [place.memory.reserve(4000, 0), place.memory.reserve(4000, 0)];
		const kept = new Map<KeptBytes, { bytes: Uint8Array; store: number }>();
		const random = seededRandom(20240608);
		let most = 0;
		for (let i = 0; i < 400; i++) {
			const store = Math.floor(2 * random());
			const own = [...kept].filter(([, piece]) => piece.store === store);
			const total = own.reduce((sum, [, piece]) => sum + piece.bytes.length, 0);
			const size = [100, 400, 1000][Math.floor(3 * random())];
			if (total + size <= 4000) {
				const content = bytes(size, i);
				kept.set(stores[store].keep(content), { bytes: content, store });
			} else {
				const [piece] = own[Math.floor(own.length * random())];
				piece.free();
				kept.delete(piece);
			}
			for (const [piece, { bytes }] of kept) assert.deepEqual(piece.read(), bytes);
			most = Math.max(most, place.fileBytes ?? 0);
		}
		// Places are used again: at most all that there can be of each size.
		assert.ok(most <= 3 * 8000, `${most} bytes`);
		assert.equal(most > 0, budget < 8000);
		assert.equal(place.said.length > 0, budget < 8000);
		stores[0][Symbol.dispose]();
		for (const [piece, { bytes, store }] of kept) {
			if (store === 1) assert.deepEqual(piece.read(), bytes);
		}
		stores[1][Symbol.dispose]();
		assert.equal(place.fileBytes, undefined, "no piece is left");
		// All of the memory is there again.
		using again = place.memory.reserve(Math.min(budget, 4000), 0);
		again.keep(bytes(Math.min(budget, 4000)));
		assert.equal(place.fileBytes, undefined);
	});
}

Deno.test("without a budget, memory is a part of what is available and not promised", () => {
	using place = new Place({ availableBytes: () => 10_000 });
	const sizes = (text: string) => /^of activations, (.*) in host memory and (.*) in "/.exec(text)!;
	place.memory.reserve(6000, 0);
	assert.deepEqual(place.said, []);
	place.memory.reserve(3000, 0); // of 7000, 1000 are left
	assert.deepEqual(sizes(place.said[0]).slice(1), ["7.0 kB", "2.0 kB"]);
	place.memory.reserve(500, 20_000); // the GPU may take it all
	assert.deepEqual(sizes(place.said[1]).slice(1), ["7.0 kB", "2.5 kB"]);
});

Deno.test("the file's size is checked before it is written", () => {
	using place = new Place({ bytes: 1000, freeBytes: () => 3000 });
	using _store = place.memory.reserve(3500, 0);
	assert.throws(
		() => place.memory.reserve(1000, 0),
		new UserError(
			`Activations need 3.5 kB beside GPU memory and host memory, and the disk of "${place.path}" ` +
				`has 3.0 kB free; make room, choose as output a folder on a larger disk, or use fewer ` +
				`samples or activations: f16`,
		),
	);
	assert.equal(place.fileBytes, undefined);
});

Deno.test("a file that becomes shorter, or cannot be made, is a clear error", () => {
	using place = new Place({ bytes: 0 });
	using store = place.memory.reserve(1000, 0);
	const piece = store.keep(bytes(1000));
	const [name] = readdirSync(place.path);
	truncateSync(join(place.path, name), 500);
	assert.throws(() => piece.read(), {
		name: "UserError",
		message: `Cannot read "${join(place.path, name)}": it has become shorter`,
	});

	using memory = new SpillingMemory(join(place.path, "none", "activations"), { bytes: 0 });
	using other = memory.reserve(10, 0);
	assert.throws(() => other.keep(bytes(12)), {
		name: "UserError",
		message: /^Cannot write ".*": no such file or folder$/,
	});
	assert.ok(!existsSync(join(place.path, "none")));
});
