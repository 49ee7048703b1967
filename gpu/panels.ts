/**
 * Kernels for storage arrays that are longer than a binding. The array `name` becomes several bindings
 * `name_0`, `name_1` ..., its panels, which follow one another. A read `name[i]` becomes a call of
 * `name_element(i)`, an atomic operation one of a function of its own, a write a branch per panel, and
 * `arrayLength(&name)` the sum of theirs. What is computed and in which order stays the same, and so do
 * the bits of the results.
 */

const DECLARATION =
	/@group\(0\)\s*@binding\((\d+)\)\s*var<storage(?:,\s*(read_write|read))?>\s*(\w+)\s*:\s*([^;]+);/g;

/** A storage array in panels. */
interface Panels {
	name: string;
	count: number;
}

/**
 * The text of a kernel with storage arrays in panels.
 *
 * @param panels The number of panels of each storage binding, in the order of the binding numbers.
 * @returns The text, and the binding numbers of each array's panels, in the order of `panels`; undefined
 *   if an array of several panels has arrays as elements, which panels might cut.
 * @throws {Error} If the text takes the address of an element.
 */
export function splitBindings(
	source: string,
	panels: readonly number[],
): { source: string; bindings: number[][] } | undefined {
	let text = source.replaceAll(/\/\/.*/g, "");
	const arrays = [...text.matchAll(DECLARATION)]
		.map(([declaration, binding, access = "read", name, type]) => ({
			declaration,
			binding: Number(binding),
			access,
			name,
			element: /^array<(.*)>$/s.exec(type.trim())?.[1],
		}))
		.sort((a, b) => a.binding - b.binding);
	const numbers = [...text.matchAll(/@binding\((\d+)\)/g)].map(([, number]) => Number(number));
	let next = Math.max(...numbers) + 1;
	const bindings: number[][] = [];
	for (const [i, { declaration, binding, access, name, element }] of arrays.entries()) {
		const count = panels[i];
		const own = [binding, ...Array.from({ length: count - 1 }, () => next++)];
		bindings.push(own);
		if (count === 1) continue;
		if (!element || element.startsWith("array")) return undefined;
		const array = { name, count };
		const number = /^atomic<(\w+)>$/.exec(element)?.[1];
		text = rewriteLengths(text.replace(declaration, ""), array);
		text = number ? rewriteAtomics(text, array, number) : rewriteAccesses(text, array);
		if (!number) {
			const body = cases(array, "at", (panel) => `return ${panel}[at];`);
			text += `\nfn ${name}_element(i: u32) -> ${element} {\n  var at = i;\n${body}}\n`;
		}
		own.forEach((number, panel) =>
			text += `@group(0) @binding(${number}) ` +
				`var<storage, ${access}> ${name}_${panel}: array<${element}>;\n`
		);
	}
	return { source: text, bindings };
}

/** A statement for the panel that holds element `place`, a variable that becomes the place in it. */
function cases({ name, count }: Panels, place: string, statement: (panel: string) => string) {
	let text = "";
	for (let i = 0; i < count - 1; i++) {
		const length = `arrayLength(&${name}_${i})`;
		text += `if (${place} < ${length}) { ${statement(`${name}_${i}`)} }\n` +
			`else { ${place} -= ${length};\n`;
	}
	return `${text}${statement(`${name}_${count - 1}`)}\n${"}".repeat(count - 1)}\n`;
}

function rewriteLengths(text: string, { name, count }: Panels): string {
	const lengths = Array.from({ length: count }, (_, i) => `arrayLength(&${name}_${i})`);
	const whole = new RegExp(`\\barrayLength\\(\\s*&${name}\\s*\\)`, "g");
	return text.replaceAll(whole, `(${lengths.join(" + ")})`);
}

/** Atomic operations on elements become calls of functions, which are added to the text. */
function rewriteAtomics(text: string, array: Panels, type: string): string {
	const { name } = array;
	const used = new Set<string>();
	const operation = new RegExp(`\\batomic(\\w+)\\(\\s*&${name}\\[`, "g");
	let out = "";
	let done = 0;
	for (let match; (match = operation.exec(text));) {
		const open = operation.lastIndex - 1;
		const end = behindBracket(text, open);
		used.add(match[1]);
		out += text.slice(done, match.index) +
			`${name}_${match[1]}(u32(${text.slice(open + 1, end - 1)})`;
		done = end;
	}
	out += text.slice(done);
	for (const kind of used) {
		const [value, result] = kind === "Load" ? [false, true] : [true, kind !== "Store"];
		const call = (panel: string) =>
			`${result ? "return " : ""}atomic${kind}(&${panel}[at]${value ? ", value" : ""});`;
		out += `\nfn ${name}_${kind}(i: u32${value ? `, value: ${type}` : ""})` +
			`${result ? ` -> ${type}` : ""} {\n  var at = i;\n${cases(array, "at", call)}}\n`;
	}
	return out;
}

/** The index behind the bracket that closes the one at `open`. */
function behindBracket(text: string, open: number): number {
	let depth = 0;
	for (let i = open; i < text.length; i++) {
		if ("([{".includes(text[i])) depth++;
		else if (")]}".includes(text[i]) && --depth === 0) return i + 1;
	}
	throw new Error("A bracket is not closed");
}

/** The index behind the members and indices that follow an element at `start`, such as `.x` or `[1]`. */
function behindMembers(text: string, start: number): number {
	for (let end = start;;) {
		const member = /^\.\w+/.exec(text.slice(end, end + 64));
		if (member) end += member[0].length;
		else if (text[end] === "[") end = behindBracket(text, end);
		else return end;
	}
}

/** Reads become calls of `name_element`, assignments a branch per panel. */
function rewriteAccesses(text: string, array: Panels): string {
	const { name } = array;
	const access = new RegExp(`(?<![\\w.])${name}\\b`, "g");
	let out = "";
	let done = 0;
	for (let match; (match = access.exec(text));) {
		const start = match.index;
		if (/[(,=]\s*&\s*$/.test(text.slice(Math.max(0, start - 64), start))) {
			throw new Error(`The storage variable "${name}" cannot be split: its address is taken`);
		}
		const open = start + name.length;
		if (text[open] !== "[") continue; // another name, such as that of a parameter
		const end = behindBracket(text, open);
		const index = rewriteAccesses(text.slice(open + 1, end - 1), array);
		const behind = behindMembers(text, end);
		out += text.slice(done, start);
		if (!/^\s*(\+\+|--|([-+*/%&|^]|<<|>>)?=(?!=))/.test(text.slice(behind, behind + 64))) {
			out += `${name}_element(u32(${index}))`;
			done = access.lastIndex = end;
			continue;
		}
		const stop = text.indexOf(";", behind);
		const rest = rewriteAccesses(text.slice(end, stop), array);
		const place = `${name}_place`;
		const assign = cases(array, place, (panel) => `${panel}[${place}]${rest};`);
		out += `{ var ${place} = u32(${index});\n${assign}}`;
		done = access.lastIndex = stop + 1;
	}
	return out + text.slice(done);
}
