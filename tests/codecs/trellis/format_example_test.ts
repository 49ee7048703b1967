import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import {
	dequantizeTrellisHost,
	stateAt,
	storeTrellis,
	type TrellisHost,
} from "~/codecs/trellis/store.ts";
import { tableBytes, tableOf } from "~/codecs/trellis/tables.ts";
import { hasTable, STATE_BITS, stepsOf, TRELLIS_BITS } from "~/codecs/trellis/trellis.ts";

const TEXT = readFileSync(join(import.meta.dirname!, "../../../docs/format.md"), "utf8");
/** Without the spaces that align cells. */
const CELLS = TEXT.replaceAll(/ +/g, " ");

const EXAMPLE: TrellisHost = {
	rows: 2,
	cols: 3,
	bits: 1,
	stateBits: 8,
	stream: Uint32Array.of(0xdeadbeef, 0x01234567, 0, 0, 0, 0, 0, 0xa5),
	scales: Float32Array.of(0.25, -1.5),
	order: Uint32Array.of(2, 0, 1),
};

Deno.test("the trellis layer in docs/format.md is what the program writes and reads", () => {
	for (const { name, dtype, shape, data } of storeTrellis("up", EXAMPLE)) {
		const bytes = [...data as Uint8Array].map((b) => b.toString(16).padStart(2, "0")).join(" ");
		const line = `${name} ${dtype} [${shape.join(", ")}]: ${bytes}`;
		assert.ok(TEXT.includes(line), line);
	}
	const weights = dequantizeTrellisHost(EXAMPLE);
	for (const [step, row, place] of [[0, 0, 0], [1, 0, 1], [2, 0, 2], [16, 1, 0]]) {
		const state = stateAt(EXAMPLE, EXAMPLE.stream, 0, step);
		const col = EXAMPLE.order![place];
		const line = `| ${step} | 0x${state.toString(16)} | ${tableOf(EXAMPLE)[state]} | ` +
			`row ${row}, column ${col}: · ${EXAMPLE.scales[row]} = ${weights[3 * row + col]} |`;
		assert.ok(CELLS.includes(line), line);
	}
});

Deno.test("docs/format.md has the words of each rate and the hash of each table", () => {
	for (const bits of TRELLIS_BITS) {
		const { stepBits, stepWeights, words } = stepsOf({ bits });
		assert.ok(CELLS.includes(`| ${bits} | ${stepBits} | ${stepWeights} | ${words} | 12 (three)`));
		for (const stateBits of STATE_BITS.filter((stateBits) => hasTable({ bits, stateBits }))) {
			const hash = createHash("sha256").update(tableBytes({ bits, stateBits })).digest("hex");
			assert.ok(CELLS.includes(`| ${stateBits}, ${bits} | \`${hash}\` |`), `${stateBits}, ${bits}`);
		}
	}
});
