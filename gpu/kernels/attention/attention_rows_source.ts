/** WGSL that says where the queries and keys of an attention kernel lie. */
export interface AttentionRows {
  /** What the kernel's parameters begin with. */
  firstParameter: string;
  /** Declarations besides the kernel's own. */
  declarations: string;
  /** Statements at the start of main(); declares `length`, one more than the last position. */
  prologue: string;
  /** What is added to the place of a query in its tiles to give its position. */
  begin: string;
  /** Leaves a workgroup whose first query lies behind the end. */
  leave(query: string): string;
  /** The row of a position. */
  row(position: string): string;
}

/** The tokens of a batch are windows of one length. */
const WINDOWS: AttentionRows = {
  firstParameter: "length: u32",
  declarations: "",
  prologue: `let window = group.z * p.length;
  let length = p.length;`,
  begin: "",
  leave: () => "",
  row: (position) => `(window + ${position})`,
};

/** They are segments, each of which goes on from another one or from nothing. */
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
  leave: (query) => `if (${query} >= length) { return; } // of a shorter segment than the longest`,
  row: (position) => `row_of(segment, ${position})`,
};

export function attentionRows(isSegmented: boolean): AttentionRows {
  return isSegmented ? SEGMENTS : WINDOWS;
}
