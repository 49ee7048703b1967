import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { billm } from "~/codecs/billm/codec.ts";
import { type BillmHost, dequantizeBillm } from "~/codecs/billm/host.ts";
import { storeLinear } from "~/codecs/mod.ts";
import { packedMetadata } from "~/storage/packed_metadata.ts";
import { writeSafetensors } from "~/storage/write_safetensors.ts";
import { TemporaryFolder } from "../../temporary_folder.ts";
import { PLAIN } from "../store_forms.ts";

const TEXT = readFileSync(join(import.meta.dirname!, "../../../docs/format.md"), "utf8");

/** The layer of the worked example: 2 x 40 weights, column 3 salient with two planes. */
function example(): BillmHost {
	const values = Int8Array.of(
		...[10, 40, -20, 100, 5, 127, 60, -8, 35, 127, 90, 0, 110, 50],
		...[0, 50, 0, 127, 0, 120, 70, 127, 45, -127, 127, 0, 127, 0],
	);
	const factors = Float32Array.of(2 ** -12, 2 ** -10, 2 ** -13, 2 ** -9);
	const isScale = [0, 1, 0, 1, 0, 1, 1];
	return {
		rows: 2,
		cols: 40,
		blockSize: 32,
		zones: 2,
		planes: 2,
		// Signs of row 0 and 1, two words each; then zones, and in column 3 the second sign.
		bits: Uint32Array.of(0xdeadbeef, 0xa5, 0x01234567, 0x3c, 0x10204, 0x81, 0x8000040a, 0),
		scales: Float32Array.from(
			values,
			(code, i) => code * factors[2 * Math.floor(i / 14) + isScale[i % 7]],
		),
		salient: Uint32Array.of(1 << 3, 0),
		codes: { values, factors },
	};
}

Deno.test("the worked example of docs/format.md is what the program writes", () => {
	const host = example();
	const { tensors } = storeLinear("up", { codec: billm, host: host }, {
		...PLAIN,
		flags: "entropy",
	});
	const hex = (bytes: Uint8Array) =>
		[...bytes].map((b) => b.toString(16).padStart(2, "0")).join(" ");
	for (const { name, dtype, shape, data } of tensors) {
		const line = `${name} ${dtype} [${shape.join(", ")}]: ${hex(data as Uint8Array)}`;
		assert.ok(TEXT.includes(line), line);
	}
	using folder = new TemporaryFolder();
	const metadata = packedMetadata(tensors, 2);
	const path = folder.file("example.safetensors");
	const { headerBytes, bytes } = writeSafetensors(path, tensors, metadata);
	const header = new TextDecoder().decode(readFileSync(path).subarray(8, headerBytes)).trimEnd();
	assert.ok(TEXT.replaceAll("\n", "").includes(header), header);
	assert.ok(
		TEXT.includes(`${headerBytes} bytes`) && TEXT.includes(`${bytes} bytes`),
		`${headerBytes} ${bytes}`,
	);
	const weights = dequantizeBillm(host);
	for (const col of [0, 2, 3, 33]) {
		assert.ok(TEXT.includes(`${weights[col]}`), `column ${col}: ${weights[col]}`);
	}
});
