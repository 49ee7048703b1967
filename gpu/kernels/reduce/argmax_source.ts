import { repeat } from "../../source_text.ts";

/** Loads in flight per thread. */
const READS = 4;

/**
 * Generates the kernel of {@link argmax}, which calls `max_over_lanes`: out[r] = the index of the
 * greatest entry of row r, the least one of several; 2^32 - 1 if an entry is NaN or infinite.
 *
 * One workgroup per row. Its threads stride over the columns, and each keeps the first index of its
 * greatest entry. Indices are compared as f32, which is exact below 2^24.
 *
 * @param lanes Threads of a workgroup.
 * @param aligned Whether rows consist of whole vec4s.
 */
export function argmaxKernel(lanes: number, aligned: boolean): string {
	const width = aligned ? 4 : 1;
	const bits = aligned ? "vec4u" : "u32";
	const greatest = (v: string) => aligned ? `max(max(${v}.x, ${v}.y), max(${v}.z, ${v}.w))` : v;
	const look = (r: number) =>
		`bits = max(bits, bitcast<${bits}>(x${r}) & ${bits}(0x7fffffffu));
    let greatest${r} = ${greatest(`x${r}`)};
    if (greatest${r} > top) { top = greatest${r}; place = i${r}; }`;
	const isWrong = "bits >= " + (aligned ? "vec4u(0x7f800000u)" : "0x7f800000u");
	return `
struct Params { cols: u32, slot: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<${aligned ? "vec4f" : "f32"}>; // [rows, cols]
@group(0) @binding(2) var<storage, read_write> out: array<u32>; // [rows], and a slot

@compute @workgroup_size(${lanes})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let reads = p.cols / ${width}u;
  let start = group.x * reads;
  var top = -0x1.fffffep+127f; // the least f32
  var place = min(lane, reads - 1u);
  var bits = ${bits}(0u); // of the largest magnitude: drivers may assume that all numbers are finite
  for (var i = lane; i < reads; i += ${READS * lanes}u) {
    ${repeat(READS, (r) => `let i${r} = min(i + ${r * lanes}u, reads - 1u);`, "\n    ")}
    ${repeat(READS, (r) => `let x${r} = x[start + i${r}];`, "\n    ")}
    ${repeat(READS, look, "\n    ")}
  }
  let wrong = max_over_lanes(select(0.0, 1.0, ${aligned ? `any(${isWrong})` : isWrong}), lane);
  let greatest = max_over_lanes(top, lane);
  var before = -3.0e38; // the negated index, so that the least index is the greatest value
  if (top == greatest) {
    var index = place * ${width}u;
    ${
		aligned
			? `let found = x[start + place];
    if (found.x != top) {
      index += select(select(3u, 2u, found.z == top), 1u, found.y == top);
    }`
			: ""
	}
    before = -f32(index);
  }
  before = max_over_lanes(before, lane);
  if (lane == 0u) {
    let index = select(u32(-before), 0xffffffffu, wrong > 0.0);
    out[group.x] = index;
    if (p.slot != 0u) { out[p.slot] = index; }
  }
}
`;
}
