import { percentText } from "../base/units.ts";
import { plural } from "../base/figures.ts";
import { elementsOf, shapeText } from "../gpu/tensor.ts";
import { isKnownModel, ModelFiles } from "../models/model_files.ts";
import { PlainWeights } from "../models/plain_weights.ts";
import { requireTensors } from "../models/required_tensors.ts";
import { denoFolder } from "../storage/deno_folder.ts";
import { tableText } from "./table.ts";
import { modelFolder, runCommand, usageErrors } from "./task.ts";

const HELP = `Usage: deno task compare A B [options]

Compares the tensors of two model folders. Packed models are compared as their dequantized
weights, the output folder of a run as the model that it packed. Values are compared, not their
storage.

Options
  --json             Print the differences as JSON
  --help             Print this

Columns: the largest absolute difference, the RMS of the differences, and this RMS relative to the
RMS of A.

Exit codes: 0 equal, 1 different (or failed, with the reason on stderr), 2 bad arguments.
`;

/** Elements per chunk of a comparison. */
const CHUNK = 4 << 20;

const usageError = usageErrors("compare");

/** The difference of a tensor. */
interface Difference {
	name: string;
	/** The folder that lacks the tensor. */
	missing?: "a" | "b";
	/** The shapes, if they differ. */
	shapes?: { a: number[]; b: number[] };
	/** Number of different elements, or of bytes if they are not floating-point. */
	count?: number;
	maxAbsolute?: number;
	rms?: number;
	/** Absent where A is zero. */
	relativeRms?: number;
}

const options = { json: { type: "boolean" } } as const;

await runCommand({ name: "compare", help: HELP, options }, ({ values, positionals }) => {
	if (positionals.length !== 2) {
		throw usageError(`Give two folders, found ${positionals.length}`);
	}
	const [folderA, folderB] = positionals;
	using a = open(modelFolder(folderA));
	using b = open(modelFolder(folderB));
	const names = new Set([...a.tensors.keys(), ...b.tensors.keys()]);
	const differences = [...names].map((name) => differenceOf(a, b, name))
		.filter((difference) => difference !== undefined);
	if (values.json) {
		console.log(JSON.stringify({ a: folderA, b: folderB, tensors: names.size, differences }));
	} else {
		console.log(text(differences, names.size));
	}
	if (differences.length > 0) Deno.exit(1);
});

/** The weights of a folder; those of a packed model are all there. */
function open(folder: string): PlainWeights {
	const weights = PlainWeights.open(denoFolder(folder));
	if (!weights.quantization || !isKnownModel(denoFolder(folder))) return weights;
	using model = ModelFiles.open(denoFolder(folder));
	requireTensors(model);
	return weights;
}

function differenceOf(a: PlainWeights, b: PlainWeights, name: string): Difference | undefined {
	if (!a.tensors.has(name)) return { name, missing: "a" };
	if (!b.tensors.has(name)) return { name, missing: "b" };
	const shapes = { a: a.get(name).shape, b: b.get(name).shape };
	if (shapeText(shapes.a) !== shapeText(shapes.b)) return { name, shapes };
	if (a.isFloat(name) && b.isFloat(name)) return numbersDiffer(a, b, name);
	if (a.get(name).dtype !== b.get(name).dtype) return { name, count: elementsOf(shapes.a) };
	let count = 0;
	const chunksB = b.bytes(name, CHUNK);
	for (const chunk of a.bytes(name, CHUNK)) {
		const other = chunksB.next().value!;
		count += chunk.reduce((sum, byte, i) => sum + Number(byte !== other[i]), 0);
	}
	return count > 0 ? { name, count } : undefined;
}

function numbersDiffer(a: PlainWeights, b: PlainWeights, name: string): Difference | undefined {
	let count = 0;
	let maxAbsolute = 0;
	let squares = 0;
	let squaresOfA = 0;
	const chunksB = b.chunks(name, CHUNK);
	for (const chunk of a.chunks(name, CHUNK)) {
		const other: Float32Array = chunksB.next().value!;
		for (let i = 0; i < chunk.length; i++) {
			const [x, y] = [chunk[i], other[i]];
			squaresOfA += x * x;
			if (x === y || (Number.isNaN(x) && Number.isNaN(y))) continue;
			const off = Math.abs(x - y);
			count++;
			squares += off * off;
			if (!(off <= maxAbsolute)) maxAbsolute = off; // NaN too
		}
	}
	if (count === 0) return undefined;
	const rms = Math.sqrt(squares / elementsOf(a.get(name).shape));
	const relativeRms = Math.sqrt(squares / squaresOfA);
	return {
		name,
		count,
		maxAbsolute,
		rms,
		...(squaresOfA !== 0 && { relativeRms }),
	};
}

function text(differences: readonly Difference[], tensors: number): string {
	const equal = tensors - differences.length;
	if (differences.length === 0) return `Equal: ${tensors} ${plural(tensors, "tensor")}`;
	const rows = differences.map((difference) => {
		const { name, missing, shapes, count, maxAbsolute, rms, relativeRms } = difference;
		if (missing) return [name, `only in ${missing === "a" ? "B" : "A"}`];
		if (shapes) return [name, `${shapeText(shapes.a)} and ${shapeText(shapes.b)}`];
		if (maxAbsolute === undefined) return [name, `${count} differ, not floating-point numbers`];
		const part = relativeRms === undefined ? "A is zero" : percentText(relativeRms, 3);
		return [name, maxAbsolute.toExponential(2), rms!.toExponential(2), part];
	});
	const head = ["tensor", "max", "RMS", "of A's RMS"];
	return `${tableText(head, rows, 1)}\n\n${differences.length} of ${tensors} tensors differ, ` +
		`${equal} are equal`;
}
