import { repeat, XYZW } from "../../source_text.ts";

/** Rows and columns of a diagonal block. */
export const FACTOR_BLOCK = 64;

/**
 * Generates the kernel that factors a diagonal block: U = R⁻¹ for A_bb = R Rᵀ, R upper triangular.
 *
 * One workgroup; each thread holds `each` x `each` entries in registers. A step stages the last
 * remaining row, row k, in workgroup memory: with q = A[k, :] / √A[k, k], but q[k] = 1 / √A[k, k], it
 * subtracts q[i] · q from each row i above, treating that row's entry in column k as 0, and q becomes
 * row k of U. So the remainder of A and the incomplete rows of U share the square. The updates of a
 * thread's rows are summed before they are subtracted, for accuracy.
 *
 * A pivot that is not positive is replaced by 1, and `status` becomes n minus its column, unless it
 * already reports another pivot.
 *
 * @param real The type of the computation.
 * @param each Rows and columns per thread, 4 or 8.
 */
export function factorBlockKernel(real: "f32" | "f64", each: 4 | 8): string {
	const threads = FACTOR_BLOCK / each; // along each side
	const groups = each / 4; // vectors in a thread's row
	const entry = (name: string, i: number, j: number) => `${name}${i}_${j >> 2}.${XYZW[j & 3]}`;
	const step = (r: number) => {
		const side = r & 1;
		const vector = (index: string) => `rows[${side}][${index}]`;
		const place = (side: "x" | "y", g: number) => `${groups}u * t${side} + ${g}u`;
		const subtract = (i: number) =>
			repeat(groups, (g) => `d${i}_${g} += above${i >> 2}.${XYZW[i & 3]} * q${g};`);
		return `{ // row k = ${each} * owner + ${r}
      if (ty == owner) {
        ${repeat(groups, (g) => `var row${g} = c${r}_${g} - d${r}_${g};`)}
        if (tx == owner) {
          pivots[${side}] = row${r >> 2}.${XYZW[r & 3]};
          row${r >> 2}.${XYZW[r & 3]} = real(1.0);
        }
        ${repeat(groups, (g) => `${vector(place("x", g))} = row${g};`)}
      }
      workgroupBarrier(); // the other row may still be read
      let pivot = pivots[${side}];
      let good = pivot > real(0.0) && pivot < real(3.0e38);
      if (!good && failed == 0u) { failed = p.n - (p.start + ${each}u * owner + ${r}u); }
      let scale = real(1.0) / sqrt(select(real(1.0), pivot, good));
      ${
			repeat(groups, (g) =>
				`let q${g} = ${vector(place("x", g))} * scale;
      let above${g} = ${vector(place("y", g))} * scale;`)
		}
      if (tx == owner) {
        ${repeat(each, (i) => `${entry("c", i, r)} = real(0.0); ${entry("d", i, r)} = real(0.0);`)}
      }
      if (ty < owner) { ${repeat(each, subtract)} }
      if (ty == owner) {
        ${repeat(r, subtract)}
        ${repeat(groups, (g) => `c${r}_${g} = q${g}; d${r}_${g} = real4();`)}
      }
    }`;
	};
	const vectors = (line: (i: number, g: number) => string) =>
		repeat(each, (i) => repeat(groups, (g) => line(i, g)));
	return `
alias real = ${real};
alias real4 = vec4<real>;

struct Params { n: u32, start: u32, size: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> A: array<real>;           // [n, n], upper triangle
@group(0) @binding(2) var<storage, read_write> U: array<real4>;    // [${FACTOR_BLOCK}, ${FACTOR_BLOCK}]
@group(0) @binding(3) var<storage, read_write> status: array<u32>; // [1]

var<workgroup> rows: array<array<real4, ${FACTOR_BLOCK / 4}>, 2>; // double-buffered
var<workgroup> pivots: array<real, 2>;

// Beyond the end of the matrix the block is continued with the identity.
fn load(i: u32, j: u32) -> real {
  let first = p.start * p.n + p.start;
  let inside = max(i, j) < p.size;
  let value = A[first + select(0u, min(i, j) * p.n + max(i, j), inside)];
  return select(select(real(0.0), real(1.0), i == j), value, inside);
}

@compute @workgroup_size(${threads * threads})
fn main(@builtin(local_invocation_index) thread: u32) {
  let tx = thread % ${threads}u;
  let ty = thread / ${threads}u;
  let row = ${each}u * ty;
  let col = ${each}u * tx;
  ${
		vectors((i, g) =>
			`var c${i}_${g} = real4(${
				[0, 1, 2, 3].map((j) => `load(row + ${i}u, col + ${4 * g + j}u)`).join(", ")
			});`
		)
	}
  var failed = 0u;
  for (var left = (p.size + ${each - 1}u) / ${each}u; left > 0u; left--) {
    let owner = left - 1u;
    ${vectors((i, g) => `var d${i}_${g} = real4();`)}
    ${repeat(each, (i) => step(each - 1 - i))}
    ${vectors((i, g) => `c${i}_${g} -= d${i}_${g};`)}
  }
  if (thread == 0u && failed != 0u && status[0] == 0u) { status[0] = failed; }
  ${
		vectors((i, g) =>
			`U[(row + ${i}u) * ${FACTOR_BLOCK / 4}u + ${groups}u * tx + ${g}u] = select(real4(), ` +
			`c${i}_${g}, col + vec4u(${[0, 1, 2, 3].map((j) => `${4 * g + j}u`)}) >= vec4u(row + ${i}u));`
		)
	}
}
`;
}

/** The rows and columns of C that a workgroup of {@link updateKernel} computes. */
export const UPDATE_TILE = { rows: 64, cols: 64 } as const;

const DEPTH = 16; // terms that are summed up by themselves

/** A WGSL line per each of a thread's 8 x 2 vectors. */
function each(line: (i: number, g: number) => string): string {
	return repeat(8, (i) => [0, 1].map((g) => line(i, g)).join(" "));
}

/**
 * WGSL for c += Σ_k a[k] b[k] of a thread's 8 x 8 entries, from `[DEPTH][rows / 4]` and
 * `[DEPTH][cols / 4]`.
 */
function multiply(rows: number, cols: number): string {
	return `${each((i, g) => `var s${i}_${g} = vec4f();`)}
    ${
		repeat(DEPTH, (k) =>
			`{ ${
				[0, 1].map((g) =>
					`let a${g} = tile_a[${k}][ty + ${g * rows / 8}u]; ` +
					`let b${g} = tile_b[${k}][tx + ${g * cols / 8}u];`
				).join(" ")
			}
    ${each((i, g) => `s${i}_${g} = fma(vec4f(a${i >> 2}.${XYZW[i & 3]}), b${g}, s${i}_${g});`)} }`)
	}
    ${each((i, g) => `c${i}_${g} += s${i}_${g};`)}`;
}

/**
 * Generates the kernel C -= QᵀQ for the first m rows of C, without tiles that are fully below the
 * diagonal.
 *
 * A matrix product in which blocks of `DEPTH` terms are summed separately: one long f32 sum would
 * dominate the error of the factorization. Each thread holds 8 x 8 entries in registers, as two by two
 * groups of four. Several small workgroups per multiprocessor hide each other's load latency, so there
 * is no prefetching.
 */
export function updateKernel(tile: { rows: number; cols: number } = UPDATE_TILE): string {
	const { rows, cols } = tile;
	const threadsX = cols / 8;
	const threads = threadsX * rows / 8;
	const fetch = (name: string, width: number, first: string) => {
		const vectors = width / 4;
		return repeat(DEPTH * vectors / threads, (q) =>
			`{ let piece = thread + ${q * threads}u;
      let k = piece / ${vectors}u;
      let at = (k0 + k) * row_stride + (${first} >> 2u) + piece % ${vectors}u;
      ${name}[k][piece % ${vectors}u] = select(vec4f(), Q[at], k0 + k < p.k); }`);
	};
	return `
struct Params { m: u32, n: u32, k: u32, q_stride: u32, c_stride: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> Q: array<vec4f>;       // [k, q_stride]
@group(0) @binding(2) var<storage, read_write> C: array<vec4f>; // [m, c_stride]

var<workgroup> tile_a: array<array<vec4f, ${rows / 4}>, ${DEPTH}>; // of Q, columns m0 on
var<workgroup> tile_b: array<array<vec4f, ${cols / 4}>, ${DEPTH}>; // columns n0 on

fn put(row: u32, col: u32, sum: vec4f) {
  if (row < p.m && col < p.n) { C[(row * p.c_stride + col) >> 2u] -= sum; }
}

@compute @workgroup_size(${threads})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
  let m0 = group.y * ${rows}u;
  let n0 = group.x * ${cols}u;
  if (n0 + ${cols}u <= m0) { return; }
  let tx = thread % ${threadsX}u;
  let ty = thread / ${threadsX}u;
  let row_stride = p.q_stride >> 2u;
  ${each((i, g) => `var c${i}_${g} = vec4f();`)}
  for (var k0 = 0u; k0 < p.k; k0 += ${DEPTH}u) {
    ${fetch("tile_a", rows, "m0")}
    ${fetch("tile_b", cols, "n0")}
    workgroupBarrier();
    ${multiply(rows, cols)}
    workgroupBarrier(); // everyone is done with the tiles
  }
  ${
		each((i, g) =>
			`put(m0 + ${(i >> 2) * rows / 2 + (i & 3)}u + ty * 4u, ` +
			`n0 + ${g * cols / 2}u + tx * 4u, c${i}_${g});`
		)
	}
}
`;
}

/**
 * Generates the kernel that applies the inverse factor U_b, `[64, 64]`, of diagonal block b:
 *
 *     Q = U_b · [A_abᵀ | I | A_bc]        A_ab = 0        [A_bb | A_bc] = [Q_b | Q_c]
 *
 * with a before the block and c after it. A workgroup of 64 threads computes 64 columns of Q, as in
 * {@link updateKernel}; no other workgroup accesses the part of A that it replaces.
 */
export function rowsKernel(): string {
	const width = FACTOR_BLOCK / 4;
	const turned = (name: string, value: (i: number) => string) =>
		`{ let k = 4u * (thread % 4u);
      let at = thread / 4u;
      ${repeat(4, (i) => `let v${i} = ${value(i)};`)}
      ${
			repeat(4, (j) =>
				`${name}[k + ${j}u][at] = vec4f(${
					[0, 1, 2, 3].map((i) => `v${i}.${XYZW[j]}`).join(", ")
				});`)
		} }`;
	return `
struct Params { n: u32, start: u32, size: u32, q_stride: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> U: array<vec4f>;       // [64, 64]
@group(0) @binding(2) var<storage, read_write> Q: array<vec4f>; // [64, q_stride]
@group(0) @binding(3) var<storage, read_write> A: array<vec4f>; // [n, n]

var<workgroup> tile_a: array<array<vec4f, ${width}>, ${DEPTH}>; // of U_bᵀ
var<workgroup> tile_b: array<array<vec4f, ${width}>, ${DEPTH}>; // of what U_b is multiplied with

fn put(row: u32, col: u32, before: bool, value: vec4f) {
  if (row >= p.size || col >= p.n) { return; }
  Q[(row * p.q_stride + col) >> 2u] = value;
  if (!before) { A[((p.start + row) * p.n + col) >> 2u] = value; }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
  let n0 = group.x * ${FACTOR_BLOCK}u;
  let before = n0 < p.start;
  if (n0 == p.start) {
    for (var piece = thread; piece < ${FACTOR_BLOCK * width}u; piece += 64u) {
      put(piece / ${width}u, n0 + 4u * (piece % ${width}u), false, U[piece]);
    }
    return;
  }
  let tx = thread % 8u;
  let ty = thread / 8u;
  ${each((i, g) => `var c${i}_${g} = vec4f();`)}
  for (var k0 = 0u; k0 < p.size; k0 += ${DEPTH}u) {
    ${turned("tile_a", (i) => `U[((4u * at + ${i}u) * ${FACTOR_BLOCK}u + k0 + k) >> 2u]`)}
    if (before) {
      ${
		turned("tile_b", (i) =>
			`select(vec4f(), A[((n0 + 4u * at + ${i}u) * p.n + p.start + k0 + k) >> 2u], k0 + k < p.size)`)
	}
    } else {
      ${
		repeat(4, (q) =>
			`{ let k = ${4 * q}u + thread / ${width}u;
      let at = ((p.start + k0 + k) * p.n + n0) >> 2u;
      tile_b[k][thread % ${width}u] = select(vec4f(), A[at + thread % ${width}u], k0 + k < p.size); }`)
	}
    }
    workgroupBarrier();
    ${multiply(FACTOR_BLOCK, FACTOR_BLOCK)}
    workgroupBarrier(); // everyone is done with the tiles, and with A
  }
  ${
		each((i, g) =>
			`put(${(i >> 2) * FACTOR_BLOCK / 2 + (i & 3)}u + ty * 4u, ` +
			`n0 + ${g * FACTOR_BLOCK / 2}u + tx * 4u, before, c${i}_${g});`
		)
	}
  if (!before) { return; }
  for (var piece = thread; piece < ${FACTOR_BLOCK * width}u; piece += 64u) {
    let col = 4u * (piece % ${width}u);
    if (col < p.size) { A[((n0 + piece / ${width}u) * p.n + p.start + col) >> 2u] = vec4f(); }
  }
}
`;
}
