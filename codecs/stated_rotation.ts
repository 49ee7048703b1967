import { UserError } from "../base/errors.ts";
import { isRecord } from "../base/record.ts";
import type { Rotation } from "../gpu/kernels/rotation/rotation.ts";
import type { StoredTensor } from "../storage/safetensors.ts";

/**
 * What the metadata of a packed file state about the rotations of its linear layers: the text of an
 * object of rotations by name; nothing without any. A config.json of other rotations does not fit it.
 */
export function statedRotations(
	linears: readonly { name: string; rotation?: Rotation }[],
): { rotations?: string } {
	const rotated = linears.flatMap(({ name, rotation }) => rotation ? [[name, rotation]] : []);
	return rotated.length > 0 ? { rotations: JSON.stringify(Object.fromEntries(rotated)) } : {};
}

/**
 * Compares the rotation of a packed linear layer with the one that the metadata of its file state, if it
 * is a file of a packed model.
 *
 * @param main A tensor of the layer.
 * @param rotation Its rotation by config.json.
 * @throws {UserError} If they differ, or the metadata are damaged.
 */
export function checkStatedRotation(
	{ file, metadata }: StoredTensor,
	name: string,
	rotation: Rotation | undefined,
): void {
	if (!metadata) return;
	const stated = statedIn(metadata.rotations ?? "{}", file);
	const own = Object.hasOwn(stated, name) ? stated[name] as Rotation : undefined;
	const [found, wanted] = [own, rotation].map(rotationText);
	if (found === wanted) return;
	throw new UserError(
		`"${file}": "${name}" is ${found}, but ${wanted} by config.json; the file does not fit its ` +
			`config.json`,
	);
}

function statedIn(text: string, file: string): Record<string, unknown> {
	let stated: unknown;
	try {
		stated = JSON.parse(text);
	} catch {
		// refused below
	}
	if (isRecord(stated)) return stated;
	throw new UserError(
		`Cannot read "${file}": the rotations in its metadata are no object; the file is damaged`,
	);
}

function rotationText(rotation: Rotation | undefined): string {
	return rotation
		? `rotated with seed ${rotation.seed} in runs of ${rotation.block}`
		: "not rotated";
}
