import { bitWords } from "../../base/bits.ts";
import { codeAt } from "../bit_codes.ts";
import type { EqualSteps, NoEqualSteps } from "../equal_steps.ts";
import { codeWords, groupsOf, topCode } from "./grid.ts";
import type { GridHost } from "./store.ts";

/**
 * A grid layer as codes on equal steps. Signs ± scale are codes 0 and 1 with the doubled scale and the zero
 * 1/2.
 */
export function gridSteps(host: GridHost): EqualSteps | NoEqualSteps {
	const { rows, cols, bits, grid, salient, order, fits } = host;
	if (salient) {
		return { problem: "some of its weights have a grid of their own", remedy: "rtn or gptq" };
	}
	if (grid === "mean") {
		return { problem: "its levels are a mean ± a scale", remedy: "sign, or gptq of 2 bits" };
	}
	const groups = groupsOf(host);
	const groupSize = groups === 1 ? cols : host.groupSize;
	const count = rows * groups;
	const isSign = grid === "sign";
	const stride = codeWords(host);
	return {
		rows,
		cols,
		bits,
		topCode: topCode(bits),
		groupSize,
		...(order && groups > 1 && { groupOf: groupsByColumn(order, groupSize) }),
		scales: Float32Array.from({ length: count }, (_, i) => isSign ? 2 * fits[2 * i] : fits[2 * i]),
		zeros: Float32Array.from({ length: count }, (_, i) => isSign ? 0.5 : fits[2 * i + 1]),
		readCodes(row, into) {
			const first = row * bitWords(cols);
			for (let place = 0; place < cols; place++) {
				const word = (first + (place >>> 5)) * stride;
				into[order ? order[place] : place] = codeAt(host.codes, word, bits * (place & 31), bits);
			}
		},
	};
}

/** The scale group of each column, where groups are those of places. */
function groupsByColumn(order: Uint32Array, groupSize: number): Uint32Array {
	const groupOf = new Uint32Array(order.length);
	order.forEach((col, place) => groupOf[col] = Math.floor(place / groupSize));
	return groupOf;
}
