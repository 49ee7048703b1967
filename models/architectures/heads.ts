import type { Fields } from "./fields.ts";

/**
 * The numbers of query heads and of key-value heads.
 *
 * @param fallback Key-value heads if config.json does not state them; the query heads if absent.
 */
export function readHeads(
	fields: Fields,
	fallback?: number,
): { heads: number; keyValueHeads: number } {
	const heads = fields.integer("num_attention_heads");
	const isNull = fields.json.num_key_value_heads === null;
	const keyValueHeads = fields.integer("num_key_value_heads", isNull ? heads : fallback ?? heads);
	if (heads % keyValueHeads) {
		fields.fail("num_key_value_heads", `a divisor of num_attention_heads, ${heads}`);
	}
	return { heads, keyValueHeads };
}
