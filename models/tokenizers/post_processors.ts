import { Members } from "./members.ts";

/** What stands around the ids of a text: ids, and the place of the text. */
export type Template = (number | "text")[];

/**
 * The template of the post-processor of a `tokenizer.json`; null adds nothing.
 *
 * @param path Its place in messages.
 * @throws {Error} If it, or an option of it, is not supported.
 */
export function templateOf(path: string, json: unknown): Template {
	if (json === null || json === undefined) return ["text"];
	const members = new Members(path, json);
	const template = build(members);
	members.end();
	return template;
}

function build(members: Members): Template {
	switch (members.type) {
		case "Sequence":
			return members.list("processors")
				.map((json, i) => templateOf(`${members.path}.processors[${i}]`, json))
				.reduce<Template>((inner, outer) => outer.flatMap((x) => x === "text" ? inner : [x]), [
					"text",
				]);
		case "ByteLevel":
			members.ignore("add_prefix_space", "trim_offsets", "use_regex"); // of offsets only
			return ["text"];
		case "BertProcessing":
		case "RobertaProcessing":
			members.ignore("trim_offsets", "add_prefix_space");
			return [idOf(members, "cls"), "text", idOf(members, "sep")];
		case "TemplateProcessing":
			return templateProcessing(members);
		default:
			throw new Error(`"${members.path}" is "${members.type}", which is not supported`);
	}
}

/** The id in a pair of a token and its id. */
function idOf(members: Members, name: string): number {
	const pair = members.list(name);
	if (pair.length !== 2 || !Number.isSafeInteger(pair[1])) {
		members.refuse(name, pair, "a token with its id");
	}
	return pair[1] as number;
}

function templateProcessing(members: Members): Template {
	members.ignore("pair"); // texts come one by one
	const specials = members.object("special_tokens");
	return members.list("single").flatMap((item, i): Template => {
		const piece = new Members(`${members.path}.single[${i}]`, item);
		if (piece.has("Sequence")) {
			piece.value("Sequence");
			piece.end();
			return ["text"];
		}
		const token = piece.object("SpecialToken");
		piece.end();
		const ids = specials.object(token.text("id")).list("ids");
		if (!ids.every(Number.isSafeInteger)) specials.refuse("ids", ids, "a list of token ids");
		return ids as number[];
	});
}
