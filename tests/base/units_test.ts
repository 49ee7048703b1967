import assert from "node:assert/strict";
import { bytesText, timeText } from "../../base/units.ts";

Deno.test("bytesText() gives three or four digits and the unit", () => {
	const expected: [number, string][] = [
		[0, "0 B"],
		[999, "999 B"],
		[1000, "1.0 kB"],
		[26_256, "26.3 kB"],
		[999_949, "999.9 kB"],
		[999_950, "1.0 MB"],
		[1_000_000, "1.0 MB"],
		[13_476_000_000, "13.5 GB"],
		[1e12, "1.0 TB"],
		[1e15, "1.0 PB"],
		[2 ** 63, "9.2 EB"],
	];
	for (const [bytes, text] of expected) assert.equal(bytesText(bytes), text);
});

Deno.test("timeText() gives minutes and seconds, and hours if there are any", () => {
	const expected: [number, string][] = [
		[0, "0:00"],
		[0.4, "0:00"],
		[7, "0:07"],
		[59.6, "1:00"],
		[754, "12:34"],
		[3599.6, "1:00:00"],
		[86_461, "24:01:01"],
	];
	for (const [seconds, text] of expected) assert.equal(timeText(seconds), text);
});
