/**
 * The code points that decompose, compose or are put in order since a version of Unicode after 9, the one
 * by which the `tokenizers` library normalizes.
 */
const LATER = new RegExp(
	`[${
		("7fd 897-89f 8ca-8d3 9fe c3c d3b-d3c eba 1715 1abf-1ace 1df6-1dfa 32ff a7f2-a7f4 a82c " +
			"ab69 105c9 105d2 105da 105e4 10781-10785 10787-107b0 107b2-107ba 10d24-10d27 " +
			"10d69-10d6d 10eab-10eac 10efd-10eff 10f46-10f50 10f82-10f85 11070 1133b 11383 11385 " +
			"1138e 11391 113b8 113bb 113c2 113c5 113c7-113c9 113ce-113d0 1145e 11839-1183a 11930 " +
			"11938 1193d-1193e 11943 119e0 11a34 11a47 11a99 11d42 11d44-11d45 11d97 11f41-11f42 " +
			"1611e-16129 1612f 16d67-16d6a 16ff0-16ff1 1ccd6-1ccf9 1e030-1e06d 1e08f 1e130-1e136 " +
			"1e2ae 1e2ec-1e2ef 1e4ec-1e4ef 1e5ee-1e5ef 1f16c 1fbf0-1fbf9")
			.replace(/[0-9a-f]+/g, "\\u{$&}").replaceAll(" ", "")
	}]`,
	"u",
);
const UNCHANGED = new RegExp(`${LATER.source}+|[^${LATER.source.slice(1)}+`, "gu");

/**
 * A text in a normalization form, by the version of Unicode of the `tokenizers` library: code points that
 * were assigned later stay as they are and where they are.
 */
export function normalized(text: string, form: "NFC" | "NFD" | "NFKC" | "NFKD"): string {
	if (!LATER.test(text)) return text.normalize(form);
	return text.replace(UNCHANGED, (part) => LATER.test(part) ? part : part.normalize(form));
}
