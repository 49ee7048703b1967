/** The most lists and objects within each other: functions that walk values are recursive. */
export const MOST_LEVELS = 200;

/** The error for JSON that {@link checkNesting} refuses; its message follows the name of the file. */
export class TooNested extends SyntaxError {}

/**
 * Checks the lists and objects in a text of JSON before anything is made of it. Of other texts it may refuse
 * any.
 *
 * @param mostItems The most items of a list.
 * @throws {TooNested} If there are more than {@link MOST_LEVELS} within each other, or a list has more items.
 */
export function checkNesting(text: string, mostItems = Infinity): void {
	const commas: number[] = []; // of each list around the place, 0 in objects
	for (let i = 0; i < text.length; i++) {
		switch (text[i]) {
			case "[":
			case "{":
				commas.push(text[i] === "[" ? 0 : -Infinity);
				if (commas.length > MOST_LEVELS) {
					throw new TooNested(
						`it is nested too deep: more than ${MOST_LEVELS} lists and objects within each other`,
					);
				}
				break;
			case "]":
			case "}":
				commas.pop();
				break;
			case ",":
				if (commas.length > 0 && ++commas[commas.length - 1] >= mostItems) {
					throw new TooNested(`it has a list of more than ${mostItems} items`);
				}
				break;
			case '"':
				i = endOfString(text, i);
		}
	}
}

/** The place of the quote that ends the string at `start`; the end of the text if there is none. */
function endOfString(text: string, start: number): number {
	for (let end = start + 1;; end++) {
		end = text.indexOf('"', end);
		if (end < 0) return text.length;
		let first = end;
		while (text[first - 1] === "\\") first--;
		if ((end - first) % 2 === 0) return end;
	}
}
