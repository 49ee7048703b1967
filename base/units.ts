/** A size in bytes as text: "12.3 MB". */
export function bytesText(bytes: number): string {
	const units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
	let power = 0;
	let value = bytes;
	// A value that rounds to 1000.0 becomes 1.0 of the next unit.
	for (; value >= 999.95 && power < units.length - 1; power++) value /= 1000;
	return `${value.toFixed(power === 0 ? 0 : 1)} ${units[power]}`;
}

/** The pattern of sizes that {@link bytesOf} reads. */
export const BYTES_PATTERN = /^(\d+(?:\.\d+)?) ?([MG])(i?)B$/;

/** The number of bytes of a size such as "12GB" or "512 MiB". */
export function bytesOf(text: string): number {
	const [, number, unit, binary] = BYTES_PATTERN.exec(text)!;
	return Number(number) * (binary ? 1024 : 1000) ** (unit === "M" ? 2 : 3);
}

/** A duration in seconds as text: "1:02:03" or "0:07". */
export function timeText(seconds: number): string {
	const whole = Math.round(seconds);
	const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
	const two = (n: number) => String(n).padStart(2, "0");
	return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

/** A fraction as text: "12.3 %". */
export function percentText(part: number, digits = 1): string {
	return `${(100 * part).toFixed(digits)} %`;
}
