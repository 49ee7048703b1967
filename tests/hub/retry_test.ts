import assert from "node:assert/strict";
import { DEFAULT_LIMITS } from "~/hub/limits.ts";
import { Attempts, PassingTrouble, retryAfterMs } from "~/hub/retry.ts";

Deno.test("retryAfterMs() reads seconds and dates", () => {
	const now = Date.parse("Wed, 21 Oct 2015 07:28:00 GMT");
	const cases: [string | null, number][] = [
		[null, 0],
		["0", 0],
		["120", 120_000],
		[" 7 ", 7000],
		["Wed, 21 Oct 2015 07:28:30 GMT", 30_000],
		["Wed, 21 Oct 2015 07:27:30 GMT", 0],
		["soon", 0],
		["-5", 0],
	];
	for (const [header, expected] of cases) {
		assert.equal(retryAfterMs(header, now), expected, header!);
	}
});

Deno.test("pauses grow up to a limit, then there are none", () => {
	const limits = { ...DEFAULT_LIMITS, attempts: 8, firstPauseMs: 100, longestPauseMs: 1000 };
	const attempts = new Attempts(limits);
	const trouble = new PassingTrouble("cut");
	for (const longest of [100, 200, 400, 800, 1000, 1000, 1000]) {
		const pause = attempts.pauseAfter(trouble)!;
		assert.ok(pause >= longest / 2 && pause <= longest, `${pause} for ${longest}`);
	}
	assert.equal(attempts.pauseAfter(trouble), undefined);
});

Deno.test("success makes patience begin anew", () => {
	const attempts = new Attempts({ ...DEFAULT_LIMITS, attempts: 2, firstPauseMs: 100 });
	for (let i = 0; i < 10; i++) {
		assert.ok(attempts.pauseAfter(new PassingTrouble("cut"))! <= 100);
		attempts.succeed();
	}
});

Deno.test("a server's own pause is kept, unless it is too long", () => {
	const limits = { ...DEFAULT_LIMITS, firstPauseMs: 1, longestRetryAfterMs: 5000 };
	const pause = (ms: number) => new Attempts(limits).pauseAfter(new PassingTrouble("busy", ms));
	assert.equal(pause(5000), 5000);
	assert.equal(pause(5001), undefined);
});
