/** What the matrix kernels must compute, in f64. Matrices are row-major without gaps. */

/** Cᵀ of C `[rows, cols]`. */
export function transposed(c: ArrayLike<number>, rows: number, cols: number): Float64Array {
	const out = new Float64Array(rows * cols);
	for (let i = 0; i < rows; i++) {
		for (let j = 0; j < cols; j++) out[j * rows + i] = c[i * cols + j];
	}
	return out;
}

/** A · B for A `[m, k]` and B `[k, n]`. */
export function matmul(
	a: ArrayLike<number>,
	b: ArrayLike<number>,
	m: number,
	n: number,
	k: number,
): Float64Array {
	const c = new Float64Array(m * n);
	for (let i = 0; i < m; i++) {
		for (let l = 0; l < k; l++) {
			for (let j = 0; j < n; j++) c[i * n + j] += a[i * k + l] * b[l * n + j];
		}
	}
	return c;
}

/** L, lower triangular with a positive diagonal, of a positive definite matrix L · Lᵀ. */
export function cholesky(matrix: ArrayLike<number>, n: number): Float64Array {
	const l = new Float64Array(n * n);
	for (let i = 0; i < n; i++) {
		for (let j = 0; j <= i; j++) {
			let value = matrix[i * n + j];
			for (let k = 0; k < j; k++) value -= l[i * n + k] * l[j * n + k];
			l[i * n + j] = i === j ? Math.sqrt(value) : value / l[j * n + j];
		}
	}
	return l;
}

/** The inverse, by Gauss-Jordan elimination with row pivots. */
export function inverse(matrix: ArrayLike<number>, n: number): Float64Array {
	const width = 2 * n;
	const rows = Array.from({ length: n }, (_, i) => {
		const row = new Float64Array(width);
		for (let j = 0; j < n; j++) row[j] = matrix[i * n + j];
		row[n + i] = 1;
		return row;
	});
	for (let k = 0; k < n; k++) {
		let best = k;
		for (let i = k; i < n; i++) {
			if (Math.abs(rows[i][k]) > Math.abs(rows[best][k])) best = i;
		}
		[rows[k], rows[best]] = [rows[best], rows[k]];
		const pivot = rows[k][k];
		for (let j = 0; j < width; j++) rows[k][j] /= pivot;
		for (let i = 0; i < n; i++) {
			const factor = rows[i][k];
			if (i === k || factor === 0) continue;
			for (let j = 0; j < width; j++) rows[i][j] -= factor * rows[k][j];
		}
	}
	const out = new Float64Array(n * n);
	rows.forEach((row, i) => out.set(row.subarray(n), i * n));
	return out;
}

/** H + damping · mean(diagonal) · I from the upper triangle of H, where H_jj = 0 counts as 1. */
export function damped(hessian: ArrayLike<number>, n: number, damping: number): Float64Array {
	const out = new Float64Array(n * n);
	for (let i = 0; i < n; i++) {
		for (let j = i; j < n; j++) out[i * n + j] = out[j * n + i] = hessian[i * n + j];
		if (out[i * n + i] === 0) out[i * n + i] = 1;
	}
	let mean = 0;
	for (let i = 0; i < n; i++) mean += out[i * n + i] / n;
	for (let i = 0; i < n; i++) out[i * n + i] += damping * mean;
	return out;
}

/** U, upper triangular with a positive diagonal: Uᵀ · U = matrix⁻¹. */
export function inverseFactorReference(matrix: ArrayLike<number>, n: number): Float64Array {
	return transposed(cholesky(inverse(matrix, n), n), n, n);
}

/** v vᵀ + 2⁻¹³ I, exact in f32, for whole numbers v: the smallest eigenvalue is 1e-8 of the largest. */
export function nearlySingular(n: number): Float32Array {
	const v = (i: number) => 1 + 7 * i % 19;
	return Float32Array.from({ length: n * n }, (_, at) => {
		const [i, j] = [Math.floor(at / n), at % n];
		return v(i) * v(j) + Number(i === j) * 2 ** -13;
	});
}
