import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { readArchitecture } from "~/models/architectures/mod.ts";
import { groupsOf, kindOf, OPS } from "~/models/ops/mod.ts";
import { layerPlaces } from "~/models/places.ts";
import { SHAPES } from "~/models/synthetic.ts";
import { PROJECT } from "../../checkout.ts";

Deno.test("nothing outside models/ops asks what kind an operation is", () => {
	const files = ["models", "pipeline", "stages", "report", "tasks"].flatMap((room) =>
		readdirSync(join(PROJECT, room), { recursive: true }).map((name) => `${room}/${name}`)
	);
	const outside = files.filter((file) => file.endsWith(".ts") && !file.startsWith("models/ops/"));
	const asks = outside.filter((file) =>
		/\.op\s*[!=]==|switch\s*\([^)]*\.op\)/.test(readFileSync(join(PROJECT, file), "utf8"))
	);
	assert.ok(outside.length > 100);
	assert.deepEqual(asks, []);
});

for (const [name, shapes] of Object.entries(SHAPES)) {
	Deno.test(`what the operations of ${name} say of themselves fits together`, () => {
		const architecture = readArchitecture(shapes, "config.json");
		const ops = architecture.steps(0);
		for (const op of ops) {
			const kind = kindOf(op);
			assert.equal(kind, OPS[op.op]);
			const [reads, writes] = [kind.reads(op), kind.writes(op)];
			for (const width of Object.values({ ...reads, ...writes })) {
				assert.ok(Number.isSafeInteger(width) && width > 0);
			}
			for (const register of kind.changes?.(op) ?? []) assert.ok(register in reads);
			const group = kind.group?.(op);
			if (!group) continue;
			assert.equal(reads[group.from], group.cols);
			assert.deepEqual(writes, Object.fromEntries(group.linears.map(({ to, rows }) => [to, rows])));
		}
		const places = [...layerPlaces(architecture, 0)];
		const parts = places.map(({ name, part }) => `${name} from ${JSON.stringify(part ?? 0)}`);
		assert.equal(new Set(parts).size, places.length, "no tensor, or part of one, twice");
		assert.equal(
			places.filter(({ linear }) => linear).length,
			ops.flatMap(groupsOf).flatMap(({ linears }) => linears).length,
		);
		assert.equal(ops.filter((op) => kindOf(op).cache?.(op)).length, 1);
	});
}
