import { codeAt } from "../bit_codes.ts";
import type { EqualSteps, NoEqualSteps } from "../equal_steps.ts";
import { fieldsOf, LEVEL_FIELDS, levelWords } from "./levels.ts";
import type { LevelsHost } from "./store.ts";

/** Two or three levels as codes on equal steps: ±a, or -a, 0 and a. Others are not equally spaced. */
export function levelsSteps(host: LevelsHost): EqualSteps | NoEqualSteps {
	const { rows, cols, count, theta, codes } = host;
	if (count > 3) {
		return { problem: `its ${count} levels are not equally spaced`, remedy: "levels: 3, or gptq" };
	}
	const { columns, bits } = LEVEL_FIELDS[count];
	const [fields, words] = [fieldsOf(host), levelWords(host)];
	return {
		rows,
		cols,
		bits: count - 1,
		topCode: count - 1,
		groupSize: cols,
		scales: count === 2 ? theta.map((a) => 2 * a) : theta,
		zeros: new Float32Array(rows).fill((count - 1) / 2),
		readCodes(row, into) {
			for (let field = 0; field < fields; field++) {
				let digits = codeAt(codes, row * words, field * bits, bits);
				const end = Math.min((field + 1) * columns, cols);
				for (let col = field * columns; col < end; col++) {
					into[col] = digits % count;
					digits = Math.floor(digits / count);
				}
			}
		},
	};
}
