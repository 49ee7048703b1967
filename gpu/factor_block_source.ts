/** Generates the kernel that factors and inverts a diagonal block; its steps are written out. */

/** Rows and columns of a block. */
export const FACTOR_BLOCK = 128;

const EACH = 8; // rows and columns of a thread
const XYZW = "xyzw";

function repeat(count: number, line: (i: number) => string): string {
  return Array.from({ length: count }, (_, i) => line(i)).join("\n");
}

/** Entry `j` of a thread's row `i`. */
function entry(i: number, j: number): string {
  return `c${i}_${j >> 2}.${XYZW[j & 3]}`;
}

/**
 * For a diagonal block A_bb = R Rᵀ with R upper triangular: U = R⁻¹.
 *
 * One workgroup; each thread keeps 8 x 8 entries in registers. A step takes the last row that is
 * left, row k, through workgroup memory: with q = A[k, :] / √A[k, k], but q[k] = 1 / √A[k, k], it
 * subtracts q[i] · q from each row i above, whose entry in column k it takes for 0, and q becomes
 * row k of U. So what is left of A and the rows of U that are not complete share the square.
 *
 * A pivot that is not positive is taken for 1, and `status` becomes n minus its column, unless it
 * tells of another one already.
 *
 * @param real The type it computes in.
 */
export function factorBlockKernel(real: "f32" | "f64"): string {
  const threads = FACTOR_BLOCK / EACH; // along each side
  const step = (r: number) => {
    const side = r & 1;
    const subtract = (i: number) =>
      `c${i}_0 -= ${entry4("i", i)} * q0; c${i}_1 -= ${entry4("i", i)} * q1;`;
    return `{ // row k = 8 * owner + ${r}
      if (ty == owner) {
        var row0 = c${r}_0;
        var row1 = c${r}_1;
        if (tx == owner) { pivots[${side}] = ${entry(r, r)}; row${r >> 2}.${
      XYZW[r & 3]
    } = real(1.0); }
        rows[${side}][2u * tx] = row0;
        rows[${side}][2u * tx + 1u] = row1;
      }
      workgroupBarrier(); // the other row may still be read
      let pivot = pivots[${side}];
      let good = pivot > real(0.0) && pivot < real(3.0e38);
      if (!good && failed == 0u) { failed = p.n - (p.start + 8u * owner + ${r}u); }
      let scale = real(1.0) / sqrt(select(real(1.0), pivot, good));
      let q0 = rows[${side}][2u * tx] * scale;
      let q1 = rows[${side}][2u * tx + 1u] * scale;
      if (tx == owner) { ${repeat(EACH, (i) => `${entry(i, r)} = real(0.0);`)} }
      if (ty < owner) {
        let i0 = rows[${side}][2u * ty] * scale;
        let i1 = rows[${side}][2u * ty + 1u] * scale;
        ${repeat(EACH, subtract)}
      } else if (ty == owner) {
        let i0 = rows[${side}][2u * ty] * scale;
        let i1 = rows[${side}][2u * ty + 1u] * scale;
        ${repeat(r, subtract)}
        c${r}_0 = q0;
        c${r}_1 = q1;
      }
    }`;
  };
  return `
alias real = ${real};
alias real4 = vec4<real>;

struct Params { n: u32, start: u32, size: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> A: array<real>;            // [n, n], above the diagonal
@group(0) @binding(2) var<storage, read_write> U: array<real4>;     // [${FACTOR_BLOCK}, ${FACTOR_BLOCK}]
@group(0) @binding(3) var<storage, read_write> status: array<u32>;  // [1]

var<workgroup> rows: array<array<real4, ${FACTOR_BLOCK / 4}>, 2>;   // the steps take turns
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
  let row = ty * ${EACH}u;
  let col = tx * ${EACH}u;
  ${
    repeat(EACH, (i) =>
      repeat(2, (g) =>
        `var c${i}_${g} = real4(${
          [0, 1, 2, 3].map((j) =>
            `load(row + ${i}u, col + ${g * 4 + j}u)`
          ).join(", ")
        });`))
  }
  var failed = 0u;
  for (var blocks = (p.size + ${EACH - 1}u) / ${EACH}u; blocks > 0u; blocks--) {
    let owner = blocks - 1u;
    ${repeat(EACH, (i) => step(EACH - 1 - i))}
  }
  if (thread == 0u && failed != 0u && status[0] == 0u) { status[0] = failed; }
  ${
    repeat(EACH, (i) =>
      repeat(2, (g) => {
        const at = `(row + ${i}u) * ${FACTOR_BLOCK / 4}u + 2u * tx + ${g}u`;
        const columns = `col + vec4u(${[0, 1, 2, 3].map((j) => `${g * 4 + j}u`).join(", ")})`;
        return `U[${at}] = select(real4(), c${i}_${g}, ${columns} >= vec4u(row + ${i}u));`;
      }))
  }
}
`;
}

/** Entry `i` of the eight in `name`0 and `name`1. */
function entry4(name: string, i: number): string {
  return `${name}${i >> 2}.${XYZW[i & 3]}`;
}
