/**
 * HBLLM's coefficients and their groups in f64.
 *
 * @see HBLLM, https://arxiv.org/abs/2512.00862
 */

/** Mean and scale of a group. */
export interface Group {
	mean: number;
	scale: number;
}

/** The groups of a list of coefficients: those below the limit in magnitude, and the others. */
export interface Split {
	limit: number;
	groups: [Group, Group];
}

function average(values: readonly number[]): number {
	return values.length ? values.reduce((a, b) => a + b) / values.length : 0;
}

/** The groups with the smallest squared error, out of `candidates` quantiles of the magnitude. */
export function splitReference(
	list: readonly number[],
	candidates: number,
	sharedMean: boolean,
	rms: boolean,
): Split {
	const sorted = list.map(Math.abs).sort((a, b) => a - b);
	let best: { error: number; split: Split } | undefined;
	for (let i = 0; i < candidates; i++) {
		const place = (0.1 + 0.8 * i / (candidates - 1)) * (list.length - 1);
		const at = Math.floor(place + 1e-9);
		const limit = sorted[at] + (place - at) * ((sorted[at + 1] ?? 0) - sorted[at]);
		let error = 0;
		const groups = [false, true].map((high) => {
			const own = list.filter((x) => (Math.abs(x) >= limit) === high);
			const mean = average(sharedMean ? list : own);
			const far = own.map((x) => Math.abs(x - mean));
			const scale = rms ? Math.sqrt(average(far.map((d) => d * d))) : average(far);
			for (const d of far) error += (d - scale) ** 2;
			return { mean, scale };
		}) as [Group, Group];
		if (!best || error < best.error - 1e-12) best = { error, split: { limit, groups } };
	}
	return best!.split;
}

/** The sign and the group of a coefficient by the limit, and its value. */
export function coefficientOf({ limit, groups }: Split, x: number) {
	const group = Number(Math.abs(x) >= limit);
	const { mean, scale } = groups[group];
	const sign = Number(x >= mean);
	return { group, sign, value: sign ? mean + scale : mean - scale };
}

/** Rounds of nearest values and least squares. */
export function refineSplit(
	{ limit, groups }: Split,
	list: readonly number[],
	sharedMean: boolean,
	rounds: number,
): Split {
	let [low, high] = groups;
	for (let round = 0; round < rounds; round++) {
		const cells: number[][] = [[], [], [], []]; // low -, low +, high -, high +
		for (const x of list) cells[nearestOf([low, high], x).cell].push(x);
		const values = [low, high].flatMap(({ mean, scale }) => [mean - scale, mean + scale]);
		if (!sharedMean) {
			const means = cells.map((cell, i) => cell.length ? average(cell) : values[i]);
			[low, high] = [0, 2].map((i) => ({
				mean: (means[i] + means[i + 1]) / 2,
				scale: Math.abs(means[i + 1] - means[i]) / 2,
			}));
			continue;
		}
		// Coordinate descent to the least squares of one mean and two scales.
		let mean = low.mean;
		const scales = [low.scale, high.scale];
		for (let i = 0; i < 4000; i++) {
			const off = (x: number, cell: number) => x - (cell % 2 ? 1 : -1) * scales[cell >> 1];
			mean = average(cells.flatMap((cell, k) => cell.map((x) => off(x, k))));
			for (const g of [0, 1]) {
				const own = [
					...cells[2 * g].map((x) => mean - x),
					...cells[2 * g + 1].map((x) => x - mean),
				];
				if (own.length) scales[g] = Math.max(0, average(own));
			}
		}
		[low, high] = scales.map((scale) => ({ mean, scale }));
	}
	return { limit, groups: [low, high] };
}

export function nearestOf(groups: readonly Group[], x: number): { cell: number; value: number } {
	const values = groups.flatMap(({ mean, scale }) => [mean - scale, mean + scale]);
	const cell = values.reduce(
		(best, value, i) => Math.abs(x - value) < Math.abs(x - values[best]) ? i : best,
		0,
	);
	return { cell, value: values[cell] };
}

/** Rows in which salient columns have the mean of ordinary ones near by. */
export function filledReference(row: readonly number[], salient: readonly number[]): number[] {
	return row.map((w, j) => {
		if (!salient[j]) return w;
		const near = [...row.keys()].filter((k) => !salient[k] && Math.abs(k - j) <= 3);
		if (near.length) return average(near.map((k) => row[k]));
		const others = [...row.keys()].filter((k) => !salient[k]);
		if (others.length === 0) return 0;
		return row[others.reduce((a, b) => Math.abs(b - j) < Math.abs(a - j) ? b : a)];
	});
}

/** The ways in which lists are split. */
export interface HaarForm {
	candidates: number;
	rms: boolean;
	rounds: number;
	nearest: boolean;
}

/** (a ± b) / √2. */
export function pair(a: number, b: number): [number, number] {
	return [(a + b) * Math.SQRT1_2, (a - b) * Math.SQRT1_2];
}

function quantized(list: readonly number[], sharedMean: boolean, form: HaarForm): number[] {
	if (list.length === 0) return [];
	const start = splitReference(list, form.candidates, sharedMean, form.rms);
	const split = refineSplit(start, list, sharedMean, form.rounds);
	return list.map((x) =>
		form.nearest ? nearestOf(split.groups, x).value : coefficientOf(split, x).value
	);
}

/** HBLLM-row on a block of two rows. */
export function haarRowsReference(
	rows: readonly number[][],
	salient: readonly number[],
	form: HaarForm,
): number[][] {
	const out = rows.map((row) => {
		const full = filledReference(row, salient);
		const bands = [0, 1].map((band) =>
			quantized(
				Array.from({ length: row.length / 2 }, (_, k) => pair(full[2 * k], full[2 * k + 1])[band]),
				true,
				form,
			)
		);
		return row.map((_, j) => pair(bands[0][j >> 1], bands[1][j >> 1])[j % 2]);
	});
	const own = [...salient.keys()].filter((j) => salient[j]);
	const missing = own.map((j) => pair(rows[0][j] - out[0][j], rows[1][j] - out[1][j]));
	const bands = [0, 1].map((band) => quantized(missing.map((both) => both[band]), false, form));
	own.forEach((j, i) => {
		const more = pair(bands[0][i], bands[1][i]);
		for (const side of [0, 1]) out[side][j] += more[side];
	});
	return out;
}

/** HBLLM-col on a block of two rows. */
export function haarColumnsReference(
	rows: readonly number[][],
	salient: readonly number[],
	form: HaarForm,
): number[][] {
	const out = rows.map((row) => [...row]);
	for (const kind of [0, 1]) {
		const own = [...salient.keys()].filter((j) => salient[j] === kind);
		const bands = [0, 1].map((band) =>
			quantized(own.map((j) => pair(rows[0][j], rows[1][j])[band]), kind === 0, form)
		);
		own.forEach((j, i) => [out[0][j], out[1][j]] = pair(bands[0][i], bands[1][i]));
	}
	return out;
}
