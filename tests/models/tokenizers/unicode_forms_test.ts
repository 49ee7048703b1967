import assert from "node:assert/strict";
import { normalized } from "~/models/tokenizers/unicode_forms.ts";

Deno.test("normalization forms are those of the tokenizers library, which knows Unicode 9", () => {
	// As tokenizers 0.22.2 and 0.23.3 have them.
	const unchanged = ["a\u0898\u0334", "\u{1611e}\u{1611e}", "\u{11938}", "a\u1ac5\u0334", "\u32ff"];
	for (const text of unchanged) {
		for (const form of ["NFC", "NFD", "NFKC", "NFKD"] as const) {
			assert.equal(normalized(text, form), text, `${form} of ${JSON.stringify(text)}`);
		}
	}
	assert.equal(normalized("e\u0301\u0898\u0301\u0334\u0334", "NFC"), "é\u0898\u0334\u0334\u0301");
	assert.equal(normalized("\u0898ﬁ\u{105d2}\u0307ﬁ", "NFKD"), "\u0898fi\u{105d2}\u0307fi");
	assert.equal(normalized("a\u0345\u0334e\u0301", "NFC"), "a\u0334\u0345é");
});
