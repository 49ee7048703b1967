import { bitWords } from "../../base/bits.ts";
import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import { canGroup, uploadGroup } from "../billm/group.ts";
import { BillmStack } from "../billm/stack.ts";
import { type BillmSource, UNIT_COLS, uploadBillm } from "../billm/tensors.ts";
import { multipliesVectors } from "../billm/vector_product.ts";
import { BillmGroup, BillmWeight } from "../billm/weight.ts";
import type { StackedWeights, Weight, WeightGroup } from "../codec.ts";
import {
	canGroupRows,
	type PackedRows,
	PackedRowsGroup,
	PackedRowsWeight,
	partOf,
	placeLayers,
	uploadParts,
} from "../packed_rows/packed_rows.ts";
import { PackedRowsStack } from "../packed_rows/stack.ts";
import { decodeRows } from "../packed_rows/unpack.ts";
import type { RowCode } from "../packed_rows/vector_source.ts";
import arrange from "./arrange_levels.wgsl" with { type: "text" };
import {
	LEVEL_FIELDS,
	type LevelKind,
	type LevelsLayout,
	levelWords,
	parametersOf,
} from "./levels.ts";
import { codeWidth, levelRowCode } from "./row_code.ts";
import type { LevelsHost } from "./store.ts";
import { levelUnpacking } from "./unpack_source.ts";

/** Rows from which a workgroup takes twice as many: there are enough workgroups, which each read x. */
const MANY_ROWS = 16384;

/**
 * Uploads a linear layer of levels for products with its codes: as a BiLLM layer where its levels are those
 * of signs and zones, see {@link billmSource}.
 */
export async function uploadLevels(gpu: Gpu, host: LevelsHost): Promise<Weight> {
	if (!isBillm(host)) return new PackedRowsWeight(gpu, await uploadRows(gpu, [host]));
	using bits = await arranged(gpu, host);
	return new BillmWeight(gpu, await uploadBillm(gpu, billmSource(host, bits)));
}

/** Uploads linear layers of levels as a group; undefined if the adapter or different kinds prevent it. */
export async function uploadLevelsGroup(
	gpu: Gpu,
	hosts: readonly LevelsHost[],
): Promise<WeightGroup | undefined> {
	const [{ cols }] = hosts;
	const kindOf = ({ cols, count, pattern }: LevelsHost) => [cols, count, pattern];
	const isGroup = canGroupRows(gpu, hosts, kindOf, bitWords(cols) * codeWidth(hosts[0]));
	if (!isGroup) return undefined;
	if (!isBillm(hosts[0])) {
		const group = await uploadRows(gpu, hosts);
		return new PackedRowsGroup(gpu, group, hosts.map((host, i) => group.layer(host, i)));
	}
	if (!multipliesVectors(gpu, UNIT_COLS)) return undefined;
	const bits: Tensor[] = [];
	for (const host of hosts) bits.push(await arranged(gpu, host));
	const sources = hosts.map((host, i) => billmSource(host, bits[i]));
	const group = canGroup(sources) ? await uploadGroup(gpu, sources) : undefined;
	gpu.free(...bits);
	return group && new BillmGroup(gpu, group);
}

/** What linear layers of levels of experts have in common to be stacked; undefined if they cannot be. */
export function levelsKind(gpu: Gpu, host: LevelsHost): string | undefined {
	if (isBillm(host) && !multipliesVectors(gpu, UNIT_COLS)) return undefined;
	const { cols, count, pattern } = host;
	return [cols, count, pattern].join(" ");
}

/** Uploads linear layers of levels of experts, of one {@link levelsKind} and shape. */
export async function uploadLevelsStack(
	gpu: Gpu,
	hosts: readonly LevelsHost[],
): Promise<StackedWeights> {
	if (!isBillm(hosts[0])) {
		const all = await uploadRows(gpu, hosts);
		return new PackedRowsStack(gpu, hosts[0].rows, all, hosts.map((host, i) => all.layer(host, i)));
	}
	const bits: Tensor[] = [];
	for (const host of hosts) bits.push(await arranged(gpu, host));
	const stack = await BillmStack.upload(gpu, hosts.map((host, i) => billmSource(host, bits[i])));
	gpu.free(...bits);
	return stack;
}

/** Whether levels are ±a, or ±a and ±b, or ±a and 0. */
function isBillm({ count, pattern }: LevelKind): boolean {
	return pattern === "free" && count <= 4;
}

/**
 * A linear layer of levels as a BiLLM layer without salient columns: weights are ±a in zone 0 and ±b or 0
 * in zone 1, with means of 0 and one block of all columns. Its products look up sums of x, which takes less
 * time than decoding each weight.
 *
 * @param bits From {@link arranged}.
 */
function billmSource(host: LevelsHost, bits: Tensor): BillmSource {
	const { rows, cols, count, theta } = host;
	const zones = count === 2 ? 1 : 2;
	const parameters = parametersOf(host);
	const scales = new Float32Array(rows * 2 * zones); // means stay 0
	for (let row = 0; row < rows; row++) {
		for (let i = 0; i < parameters; i++) {
			scales[2 * (row * zones + i) + 1] = theta[row * parameters + i];
		}
	}
	const blockSize = Math.ceil(cols / UNIT_COLS) * UNIT_COLS;
	const salient = new Uint32Array(bitWords(cols));
	return { rows, cols, blockSize, zones, planes: 0, bits, scales, salient };
}

/**
 * The codes of a linear layer in the layout of products: planes of bits, u32 `[1 or 2, rows, ⌈cols / 32⌉]`,
 * of a BiLLM layer, otherwise u32 `[rows, ⌈cols / 32⌉ · bits of a code]`.
 *
 * @param target Receives them; a new tensor, owned by the caller, if absent.
 */
async function arranged(gpu: Gpu, host: LevelsHost, target?: Tensor): Promise<Tensor> {
	const { rows, cols, count, codes } = host;
	const { columns, bits } = LEVEL_FIELDS[count];
	const planes = isBillm(host);
	const width = planes ? (count === 2 ? 1 : 2) : codeWidth(host);
	const chunks = bitWords(cols);
	const words = levelWords(host);
	const out = target ?? gpu.empty([rows, chunks * width], "u32");
	using stored = gpu.upload(codes, [rows, words]);
	const kernel = await gpu.kernel({
		name: "arrange_levels",
		source: arrange,
		constants: { COUNT: count, DIGITS: columns, BITS: bits, PLANES: Number(planes), WIDTH: width },
	});
	kernel.dispatch({
		params: uniform([rows, cols, words, chunks]),
		tensors: [stored, out],
		workgroups: Math.ceil(rows * chunks / 64),
	});
	return out;
}

/** The tensors of linear layers of levels for products row by row: one layer, or a group. */
class LevelRows implements PackedRows {
	readonly rows: number;
	readonly cols: number;
	readonly tensors: readonly Tensor[];

	/**
	 * @param codes u32 `[rows, ⌈cols / 32⌉ · bits of a code]`.
	 * @param theta The parameters of each row, f32 `[rows, parameters]`, as words.
	 */
	constructor(
		readonly layout: LevelsLayout,
		readonly starts: readonly number[],
		readonly codes: Tensor,
		readonly theta: Tensor,
	) {
		[this.rows, this.cols] = [layout.rows, layout.cols];
		this.tensors = [codes, theta];
	}

	/** Layer `i` of a group, as views of its tensors. */
	layer({ rows }: LevelsLayout, i: number): LevelRows {
		const { layout, starts, codes, theta } = this;
		const views = [codes, theta].map((tensor) => partOf(tensor, starts[i], rows));
		return new LevelRows({ ...layout, rows }, [0], views[0], views[1]);
	}

	code(gpu: Gpu, rows: number): RowCode {
		return levelRowCode(this.layout, gpu.software ? 4 : rows >= MANY_ROWS ? 16 : 8);
	}

	unpack(gpu: Gpu, first: number, rows: number, out?: Tensor): Promise<Tensor> {
		const { layout, cols, tensors } = this;
		return decodeRows(gpu, { first, rows, cols, code: levelUnpacking(layout), tensors, out });
	}
}

/** Uploads layers of one kind, whose tensors the caller owns. */
async function uploadRows(gpu: Gpu, hosts: readonly LevelsHost[]): Promise<LevelRows> {
	const [first] = hosts;
	const { starts, rows } = placeLayers(hosts);
	const codes = gpu.empty([rows, bitWords(first.cols) * codeWidth(first)], "u32");
	for (const [i, host] of hosts.entries()) {
		await arranged(gpu, host, partOf(codes, starts[i], host.rows));
	}
	const parameters = hosts.map(({ theta }) => new Uint32Array(theta.slice().buffer));
	const theta = uploadParts(gpu, { starts, rows }, parameters, parametersOf(first));
	return new LevelRows({ ...first, rows }, starts, codes, theta);
}
