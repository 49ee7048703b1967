import { repeat } from "../../gpu/source_text.ts";
import { type BillmForm, planesOf, scaleSource } from "./tensors.ts";

/** The terms that {@link billmMatvecKernel} adds to the product. */
export const MATVEC_FLAGS = { bias: 1, residual: 2 } as const;

/** The parameters of {@link billmMatvecKernel}. */
export interface PackedMatvecShape {
	/** Tokens of one pass over the weight. */
	tokens: 1 | 2 | 4;
	/** Groups of 32 threads that split the columns; a power of two. */
	splits: number;
	/** Whether loops are unrolled, for GPUs. */
	unrolled: boolean;
}

/** Bytes of workgroup memory that {@link billmMatvecKernel} needs. */
export function billmMatvecBytes(splits: number): number {
	return 4 * 32 * (16 * splits + 1) + 2 * 4 * 32 * splits;
}

/**
 * Generates the kernel that multiplies a packed weight with the activations of a few tokens.
 *
 * The product is a linear combination of sums of activations over subsets of the columns. With s the
 * sign bit, f the zone bit, and m, r the mean and scale of a zone, a weight that is not salient is
 *
 *   (m0 - r0) + s · 2 r0 + f · (m1 - r1 - m0 + r0) + s f · 2 (r1 - r0)
 *
 * So a row needs the sums of x over all columns, over those with s, with f, and with both. Salient
 * weights are linear in their bits in the same way. The sums come from a lookup table that holds, for
 * every four columns, the sums of all 16 subsets; a thread looks up four bits at a time.
 *
 * A workgroup handles 32 rows, one per thread of 32; `splits` such groups of threads alternate over the
 * units of 128 columns, each with its own lookup table. All 32 threads look up the same four columns at
 * the same time, which avoids bank conflicts.
 */
export function billmMatvecKernel(form: BillmForm, shape: PackedMatvecShape): string {
	const { zones, planes, coded, mixed } = form;
	const { tokens, splits, unrolled } = shape;
	const planeCount = planesOf(form);
	const scale = scaleSource(form, "scale");
	const words = 4 / tokens; // words of a unit in the lookup table at a time
	const groups = 32 / tokens; // groups of four columns per token
	const firstPlanes = Math.min(planeCount, 2); // other planes are read only for salient columns

	const each = (count: number, name: string, body: (i: string) => string) =>
		unrolled
			? repeat(count, (i) => `{ ${body(`${i}u`)} }`)
			: `for (var ${name} = 0u; ${name} < ${count}u; ${name}++) { ${body(name)} }`;
	const sums = (token: number) => [
		`all${token}`,
		`plus${token}`,
		...(zones === 2 ? [`high${token}`, `high_plus${token}`] : []),
		...(planes > 0 ? [`marked${token}`] : []),
		...Array.from({ length: planes }, (_, k) => `marked_plus${token}_${k}`),
	];
	const allSums = Array.from({ length: tokens }, (_, token) => sums(token)).flat();

	/** Adds the contribution of the sums since the last call. */
	const settle = `{
    let low_mean = ${scale.zoneMean(0)};
    let low_scale = ${scale.zoneScale(0)};
    let of_all = low_mean - low_scale;
    ${
		zones === 2
			? `let high_scale = ${scale.zoneScale(1)};
    let of_high = ${scale.zoneMean(1)} - high_scale - of_all;
    let of_high_plus = 2.0 * (high_scale - low_scale);`
			: ""
	}
    ${repeat(planes, (k) => `let salient_scale${k} = ${scale.salientScale(k)};`)}
    ${
		planes > 0
			? `let of_marked = ${scale.salientMean}${repeat(planes, (k) => ` - salient_scale${k}`, "")};`
			: ""
	}
    ${
		repeat(tokens, (t) =>
			`y${t} += of_all * all${t} + 2.0 * low_scale * plus${t}${
				zones === 2 ? ` + of_high * high${t} + of_high_plus * high_plus${t}` : ""
			};
    ${planes > 0 ? `y${t} += of_marked * marked${t};` : ""}
    ${
				repeat(planes, (k) => `y${t} += 2.0 * salient_scale${k} * marked_plus${t}_${k};`)
			}`)
	}
    ${allSums.map((name) => `${name} = 0.0;`).join(" ")}
  }`;

	/** The table entry of a token's group of columns for four bits of a word. */
	const entry = (token: number, group: string, word: string, bits: string) => {
		const index = unrolled
			? `${token * groups + parseInt(word) * 8 + parseInt(group)}`
			: `${token * groups}u + ${word} * 8u + ${group}`;
		const shifted = unrolled ? `${bits} >> ${4 * parseInt(group)}u` : `${bits} >> (${group} * 4u)`;
		return `table[${index}][base | ((${shifted}) & 15u)]`;
	};
	/** Looks up the salient columns of 16 positions; usually few words have any. */
	const lookUpMarked = (local: string, word: string, half: number) =>
		`if ((marks[${word}] & ${half === 0 ? "0xffffu" : "0xffff0000u"}) != 0u) {
      ${
			repeat(planes, (k) =>
				`let bits${k} = marks[${word}] & ${
					k < firstPlanes ? `plane${k}[${word}]` : `bits[here + ${32 * k}u][${word}]`
				};`)
		}
      ${
			each(4, "g", (g) =>
				repeat(tokens, (t) =>
					repeat(planes, (k) =>
						`marked_plus${t}_${k} += ${
							entry(
								t,
								unrolled ? `${half * 4 + parseInt(g)}u` : `(${half * 4}u + g)`,
								local,
								`bits${k}`,
							)
						};`)))
		}
      ${
			repeat(tokens, (t) =>
				`{ let total = marked_totals[${t * groups / 4}u + ${local} * 2u + ${half}u][split];
        marked${t} += (total.x + total.y) + (total.z + total.w); }`)
		}
    }`;
	const lookUp = (local: string, word: string) => `
    let ordinary = ~marks[${word}];
    let plus = plane0[${word}] & ordinary;
    ${zones === 2 ? `let high = plane1[${word}] & ordinary; let both = plus & high;` : ""}
    ${
		each(8, "g", (g) =>
			repeat(tokens, (t) =>
				`plus${t} += ${entry(t, g, local, "plus")};
      ${
					zones === 2
						? `high${t} += ${entry(t, g, local, "high")};
      high_plus${t} += ${entry(t, g, local, "both")};`
						: ""
				}`))
	}
    ${
		repeat(tokens, (t) =>
			`{ let total = totals[${t * groups / 4}u + ${local} * 2u][split] + totals[${
				t * groups / 4
			}u + ${local} * 2u + 1u][split];
      all${t} += (total.x + total.y) + (total.z + total.w); }`)
	}
    ${planes === 0 ? "" : [0, 1].map((half) => lookUpMarked(local, word, half)).join("\n")}
    ${
		mixed
			? `{ let block = min((unit * 128u + ${word} * 32u) / p.block_size, p.blocks - 1u);
      ${scale.load("tile", "block", "lane")} }
    ${settle}`
			: ""
	}`;

	/** The unit and part that follow `ahead` parts later. */
	const placeOf = (part: number, ahead: number) =>
		`order_at(unit + ${splits * Math.floor((part + ahead) / tokens)}u, ${
			(part + ahead) % tokens * groups
		}u + group)`;
	const part = (i: number) =>
		`{
    workgroupBarrier(); // everyone is done with the table
    fill(lane, split, x, place);
    place = next_place;
    x = gather(token, place);
    next_place = ${placeOf(i, 2)};
    workgroupBarrier();
    ${
			each(
				words,
				"w",
				(w) => lookUp(w, unrolled ? `${i * words + parseInt(w)}u` : `(${i * words}u + ${w})`),
			)
		}
  }`;

	const fetch = `if (next < p.units) {
    next_here = (tile * p.units + next) * ${32 * planeCount}u + lane;
    ${repeat(firstPlanes, (k) => `next_plane${k} = bits[next_here + ${32 * k}u];`)}
    next_marks = salient[next];
    ${
		mixed ? "" : `{ let block = next * 128u / p.block_size;
    ${scaleSource(form, "next_scale").load("tile", "block", "lane")} }`
	}
  }`;
	const scaleCount = scale.declare.split(";").length - 1;

	return `
struct Params {
  rows: u32, cols: u32, units: u32, blocks: u32, block_size: u32, tiles: u32, tokens: u32, flags: u32,
  first: u32, // token
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> X: array<f32>;         // [tokens, cols]
@group(0) @binding(2) var<storage, read> bits: array<vec4u>;    // [tiles, units, planes, 32]
@group(0) @binding(3) var<storage, read> scales: array<u32>;    // [tiles, blocks, words, 32]
@group(0) @binding(4) var<storage, read> factors: array<vec2f>; // [tiles * 32]
@group(0) @binding(5) var<storage, read> salient: array<vec4u>; // [units]
@group(0) @binding(6) var<storage, read> order: array<vec4u>;   // [units, 32]
@group(0) @binding(7) var<storage, read> bias: array<f32>;      // [rows]
@group(0) @binding(8) var<storage, read> R: array<f32>;         // [tokens, rows]
@group(0) @binding(9) var<storage, read_write> Y: array<f32>;   // [tokens, rows]

// The sums of the subsets of four activations, for each split. The odd length avoids bank conflicts
// between groups, and lets compilers prove that indices are in bounds.
var<workgroup> table: array<array<f32, ${16 * splits + 1}>, 32>;
// The sums of the four activations that are not salient, and of the salient ones.
var<workgroup> totals: array<array<vec4f, ${splits}>, 8>;
var<workgroup> marked_totals: array<array<vec4f, ${splits}>, 8>;

fn order_at(unit: u32, group: u32) -> vec4u {
  return select(vec4u(p.cols), order[min(unit, p.units - 1u) * 32u + group], unit < p.units);
}

fn gather(token: u32, place: vec4u) -> vec4f {
  let col = place & vec4u(0x7fffffffu);
  let start = (p.first + token) * p.cols;
  return select(
    vec4f(0.0),
    vec4f(X[start + col.x], X[start + col.y], X[start + col.z], X[start + col.w]),
    (col < vec4u(p.cols)) & vec4<bool>(token < p.tokens),
  );
}

fn fill(lane: u32, split: u32, x: vec4f, place: vec4u) {
  let base = split << 4u;
  let xy = x.x + x.y;
  let zw = x.z + x.w;
  ${
		repeat(16, (subset) => {
			const low = ["", "x.x", "x.y", "xy"][subset & 3];
			const high = ["", "x.z", "x.w", "zw"][subset >> 2];
			const sum = [low, high].filter((text) => text).join(" + ") || "0.0";
			return `table[lane][base | ${subset}u] = ${sum};`;
		})
	}
  let is_marked = place >= vec4u(${2 ** 31}u);
  let others = select(x, vec4f(0.0), is_marked);
  totals[lane >> 2u][split][lane & 3u] = (others.x + others.y) + (others.z + others.w);
  ${
		planes > 0
			? `let marked = select(vec4f(0.0), x, is_marked);
  marked_totals[lane >> 2u][split][lane & 3u] = (marked.x + marked.y) + (marked.z + marked.w);`
			: ""
	}
}

@compute @workgroup_size(${32 * splits})
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let tile = workgroup.y * workgroups.x + workgroup.x;
  if (tile >= p.tiles) { return; }
  let lane = thread & 31u;
  let split = (thread >> 5u) & ${splits - 1}u;
  let base = split << 4u;
  let token = lane / ${groups}u; // whose activations this thread loads
  let group = lane % ${groups}u;
  ${
		coded
			? `let factor = factors[tile * 32u + lane];
  let mean_factor = factor.x;
  let scale_factor = factor.y;`
			: ""
	}
  ${repeat(tokens, (t) => `var y${t} = 0.0;`)}
  ${allSums.map((name) => `var ${name} = 0.0;`).join(" ")}
  ${repeat(firstPlanes, (k) => `var plane${k}: vec4u; var next_plane${k}: vec4u;`)}
  var marks: vec4u;
  var next_marks: vec4u;
  var here: u32;
  var next_here: u32;
  ${scale.declare}
  ${mixed ? "" : scaleSource(form, "next_scale").declare}
  var unit = split;
  var next = unit;
  var place = ${placeOf(0, 0)};
  var next_place = ${placeOf(0, 1)};
  var x = gather(token, place);
  ${fetch}
  let turns = (p.units + ${splits - 1}u) / ${splits}u;
  for (var turn = 0u; turn < turns; turn++) {
    ${repeat(firstPlanes, (k) => `plane${k} = next_plane${k};`)}
    marks = next_marks;
    here = next_here;
    ${mixed ? "" : repeat(scaleCount, (i) => `scale${i} = next_scale${i};`, " ")}
    next = unit + ${splits}u;
    ${fetch}
    ${repeat(tokens, part)}
    ${mixed ? "" : settle}
    unit = next;
  }
  workgroupBarrier(); // the table now holds each split's part of the result
  ${repeat(tokens, (t) => `table[lane][base | ${t}u] = y${t};`)}
  workgroupBarrier();
  let row = tile * 32u + lane;
  if (row >= p.rows) { return; }
  for (var t = split; t < p.tokens; t += ${splits}u) {
    var y = 0.0;
    ${repeat(splits, (i) => `y += table[lane][${16 * i}u | t];`)}
    let at = (p.first + t) * p.rows + row;
    if ((p.flags & ${MATVEC_FLAGS.bias}u) != 0u) { y += bias[row]; }
    if ((p.flags & ${MATVEC_FLAGS.residual}u) != 0u) { y += R[at]; }
    Y[at] = y;
  }
}
`;
}
