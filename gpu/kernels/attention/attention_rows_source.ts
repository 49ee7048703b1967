/** WGSL that locates the queries and keys of an attention kernel. */
export interface AttentionRows {
	/** The first parameter of the kernel. */
	firstParameter: string;
	/** Additional declarations. */
	declarations: string;
	/** Prologue of main(); declares `length`, the last position plus 1. */
	prologue: string;
	/** The offset from a query's index in its tiles to its position. */
	begin: string;
	/** Returns from a workgroup whose first query is beyond the end. */
	leave(query: string): string;
	/** The row of a position. */
	row(position: string): string;
}

/** Batches of windows of one length. */
const WINDOWS: AttentionRows = {
	firstParameter: "length: u32",
	declarations: "",
	prologue: `let window = group.z * p.length;
  let length = p.length;`,
	begin: "",
	leave: () => "",
	row: (position) => `(window + ${position})`,
};

/** Batches of segments, each with an optional prefix. */
const SEGMENTS: AttentionRows = {
	firstParameter: "segments: u32",
	declarations: `
// (first row of the prefix, its rows, first own row, rows of both)
@group(0) @binding(5) var<storage, read> segments: array<vec4u>;

fn row_of(segment: vec4u, position: u32) -> u32 {
  return position + select(segment.z - segment.y, segment.x, position < segment.y);
}`,
	prologue: `let segment = segments[group.z];
  let length = segment.w;`,
	begin: "segment.y + ",
	leave: (query) =>
		`if (${query} >= length) { return; } // the segment is shorter than the longest`,
	row: (position) => `row_of(segment, ${position})`,
};

/** The {@link AttentionRows} of batches of segments or of windows. */
export function attentionRows(isSegmented = false): AttentionRows {
	return isSegmented ? SEGMENTS : WINDOWS;
}

/**
 * A WGSL function that caps scores softly: soft_cap(s, cap) = cap · tanh(s / cap).
 *
 * @see Gemma 2, arXiv:2408.00118
 */
export function softCap(type: "f32" | "vec4f"): string {
	// tanh may overflow
	return `fn soft_cap(s: ${type}, cap: f32) -> ${type} {
  return cap * tanh(clamp(s / cap, ${type}(-15.0), ${type}(15.0)));
}`;
}

/** What the text of an attention kernel depends on besides the size of its heads. */
export interface AttentionForm {
	/** Whether keys outside `sliding_window` are masked; tiles that are fully masked are skipped. */
	slides?: boolean;
	/** Whether the tokens form segments with prefixes instead of windows. */
	isSegmented?: boolean;
	/** Whether scores are capped softly, see {@link softCap}. */
	isCapped?: boolean;
	/** Whether each head has a sink, see {@link sinks}. */
	hasSinks?: boolean;
}

/**
 * Where a softmax begins: without a sink, far below all scores and with nothing in its sum; with one, with
 * the head's sink as a score whose value is zero.
 *
 * @param factor Scores of the kernel per score.
 * @see GPT-OSS, arXiv:2508.10925
 */
export function sinks({ hasSinks, isSegmented }: AttentionForm, head: string, factor = 1) {
	if (!hasSinks) return { declaration: "", top: "-3.0e38", sum: "0.0" };
	return {
		declaration: `@group(0) @binding(${isSegmented ? 6 : 5}) ` +
			"var<storage, read> sinks: array<f32>; // [heads]",
		top: `sinks[${head}]${factor === 1 ? "" : ` * ${factor}`}`,
		sum: "1.0",
	};
}
