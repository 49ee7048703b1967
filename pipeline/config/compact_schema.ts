import { isRecord } from "../../base/record.ts";
import type { JsonSchema } from "./json_schema.ts";

/** Keywords whose value is a schema, a list of schemas or a map of schemas. */
const NESTED = ["items", "additionalProperties", "not"];
const LISTS = ["anyOf", "oneOf", "allOf", "prefixItems"];
const MAPS = ["properties", "patternProperties"];

/** Characters below which a schema is repeated rather than shared: a reference takes as many. */
const SHORT = 32;

/**
 * The JSON Schema of pipeline files as the project ships it: a fraction of the size, without descriptions,
 * with `$defs` for what recurs, and without the values at paths such as `stages.NAME.OPTION` in a matrix.
 *
 * @param whole What `pipelineJsonSchema()` gives.
 */
export function compactSchema(whole: JsonSchema): JsonSchema {
	const { $schema, $id, title, ...rest } = whole;
	const bare = without(rest as JsonSchema);
	const counts = new Map<string, number>();
	const count = (schema: JsonSchema): JsonSchema => {
		const text = textOf(schema);
		counts.set(text, (counts.get(text) ?? 0) + 1);
		return counts.get(text) === 1 ? mapped(schema, count) : schema;
	};
	mapped(bare, count);
	const names = new Map<string, string>();
	const $defs: Record<string, JsonSchema> = {};
	const shared = (schema: JsonSchema): JsonSchema => {
		const text = textOf(schema);
		if (text.length <= SHORT || counts.get(text) === 1) return mapped(schema, shared);
		if (!names.has(text)) {
			const name = names.size.toString(36);
			names.set(text, name);
			$defs[name] = mapped(JSON.parse(text), shared);
		}
		const { default: value } = schema;
		return { $ref: `#/$defs/${names.get(text)}`, ...(value !== undefined && { default: value }) };
	};
	return { $schema, $id, title, ...mapped(bare, shared), $defs };
}

/** A schema without its default, which may stand beside a reference. */
function textOf({ default: _, ...schema }: JsonSchema): string {
	return JSON.stringify(schema);
}

/** A schema without what only people read, and without the paths of a matrix. */
function without({ title: _, description: __, ...schema }: JsonSchema): JsonSchema {
	const { properties, anyOf } = schema;
	if (schema.enum) delete schema.type; // the values say it
	const isConst = (option: unknown) => isRecord(option) && Object.hasOwn(option, "const");
	if (anyOf?.every(isConst)) return { enum: anyOf.map((option) => (option as JsonSchema).const!) };
	// What a list allows, too, is shared.
	if (anyOf && anyOf.length > 2 && isConst(anyOf.at(-1))) {
		schema.anyOf = [{ anyOf: anyOf.slice(0, -1) }, anyOf.at(-1)!];
	}
	const kept = properties &&
		Object.entries(properties).filter(([path]) => !path.startsWith("stages."));
	return mapped({ ...schema, ...(kept && { properties: Object.fromEntries(kept) }) }, without);
}

/** A schema with another one in place of each schema directly in it. */
function mapped(schema: JsonSchema, change: (schema: JsonSchema) => JsonSchema): JsonSchema {
	const apply = (value: unknown) => isRecord(value) ? change(value as JsonSchema) : value;
	const entries = Object.entries(schema).map(([key, value]) => {
		if (NESTED.includes(key)) return [key, apply(value)];
		if (LISTS.includes(key)) return [key, (value as unknown[]).map(apply)];
		if (!MAPS.includes(key)) return [key, value];
		const all = Object.entries(value as object).map(([name, it]) => [name, apply(it)]);
		return [key, Object.fromEntries(all)];
	});
	return Object.fromEntries(entries);
}
