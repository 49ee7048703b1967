// The rooms of the project, lowest first, and which imports go from one to another.
// `deno run -A tests/rooms.ts` brings the table in docs/architecture.md up to date.

import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, normalize } from "node:path";
import { PROJECT } from "./checkout.ts";

/** A file may import from its own room and from those before it. */
export const ROOMS = [
	"base",
	"storage",
	"data",
	"gpu",
	"codecs",
	"models",
	"hosts",
	"hub",
	"export",
	"pipeline",
	"stages",
	"report",
	"serve",
	"tasks",
	"web",
];

export interface Import {
	file: string;
	target: string;
}

/** The folder that a file lies in, at the top of the project. */
export function roomOf(file: string): string {
	return file.split("/")[0];
}

/** The imports of all files in the rooms, of code and of texts, by their paths in the project. */
export function findImports(): Import[] {
	const rooms = readdirSync(PROJECT).filter((name) => ROOMS.includes(name));
	const files = rooms.flatMap((room) =>
		readdirSync(join(PROJECT, room), { recursive: true }).map((name) => `${room}/${name}`)
	);
	return files.filter((file) => file.endsWith(".ts")).sort().flatMap((file) => {
		const text = readFileSync(join(PROJECT, file), "utf8");
		const specifiers = text.matchAll(/(?:\bfrom|\bimport|import\()\s*"(\.[^"]+)"/g);
		return [...specifiers].map(([, specifier]) => ({
			file,
			target: normalize(join(file, "..", specifier)),
		}));
	});
}

/** A row for each room: its files, its lines, and how many imports lead to each room below. */
export function roomTable(): string {
	const imports = findImports();
	const rows = ROOMS.flatMap((room) => {
		const names = namesIn(room);
		if (names.length === 0) return [];
		const counts = ROOMS.map((other) => {
			const count = imports.filter(({ file, target }) =>
				roomOf(file) === room && roomOf(target) === other && other !== room
			).length;
			return count > 0 ? `${other} ${count}` : "";
		}).filter(Boolean);
		return [`| \`${room}/\` | ${names.length} | ${counts.join(", ") || "nothing of ours"} |`];
	});
	return ["| room | files | imports from |", "| --- | --- | --- |", ...rows].join("\n");
}

function namesIn(room: string): string[] {
	try {
		return readdirSync(join(PROJECT, room), { recursive: true }).map(String)
			.filter((name) => /\.(ts|wgsl)$/.test(name));
	} catch {
		return []; // not built yet
	}
}

export const DOCUMENT = join(PROJECT, "docs/architecture.md");
const [BEGIN, END] = ["<!-- rooms: made by tests/rooms.ts -->", "<!-- end of rooms -->"];

/** docs/architecture.md with the table as it is now. */
export function documentWithTable(text: string): string {
	const [start, end] = [text.indexOf(BEGIN), text.indexOf(END)];
	if (start < 0 || end < start) throw new Error("docs/architecture.md has no place for the table");
	return `${text.slice(0, start)}${BEGIN}\n<!-- deno-fmt-ignore-start -->\n\n${roomTable()}\n\n` +
		`<!-- deno-fmt-ignore-end -->\n${text.slice(end)}`;
}

if (import.meta.main) {
	writeFileSync(DOCUMENT, documentWithTable(readFileSync(DOCUMENT, "utf8")));
}
