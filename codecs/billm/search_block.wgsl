// Improves one block of columns of a linear layer, all else fixed, in the loss tr(E H Eᵀ) of whole rows:
// moves each weight, column by column, to its best value (coordinate descent); then refits
// the block's means and scales to its bits.
//
// With the residual R = (W - Q) H, a weight alone would best be q_j + R_j / H_jj. With B the pattern of a
// row's parameters (±1 and 1 where a weight uses them), the refit adds the solution of (B H Bᵀ) δ = B Rᵀ.
// The caller updates R by a product with `change`, the change of Q.
//
//   other columns    mean[zone] ± scale[zone]        parameters 0 .. 3: mean, scale of low; of high
//   salient columns  mean ± scale[0] ± scale[1]      parameters 4 .. 6
//
// Means and scales are rounded to f16, as they are stored. A scale that becomes negative is negated with
// the bits that use it.
//
// LANES threads share a row (see reduce_row.wgsl); rows of R and of the bits are in workgroup memory. Long loops take several
// columns at a time, since lavapipe ends all loops of a thread after 65535 iterations.
//
// Reference: tests/reference/row_search.ts.

override STRIDE: u32 = 136; // of the rows in workgroup memory, at least the columns
override TILE: u32 = ROWS * STRIDE;
override WORDS: u32 = 4; // of a row's bits in the block
override BITS: u32 = ROWS * WORDS;
override HAS_SALIENT: bool = true;
override SCALES: u32 = 7; // per row and block: zones' (mean, scale), salient mean, salient scales

struct Params { rows: u32, cols: u32, first: u32, layer_cols: u32, words: u32, block: u32, blocks: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> H: array<f32>;               // [layer_cols, layer_cols], damped
@group(0) @binding(2) var<storage, read> residual: array<f32>;        // [rows, layer_cols]
@group(0) @binding(3) var<storage, read> salient: array<u32>;         // [layer_cols], 0 or 1
@group(0) @binding(4) var<storage, read_write> bits: array<u32>;      // [2, rows, words]
@group(0) @binding(5) var<storage, read_write> scales: array<f32>;    // [rows, blocks, SCALES]
@group(0) @binding(6) var<storage, read_write> quantized: array<f32>; // [rows, layer_cols]
@group(0) @binding(7) var<storage, read_write> change: array<f32>;    // [rows, cols]

const MOST_WORDS = 8u;                                // a block has at most 256 columns
var<workgroup> marks: array<atomic<u32>, MOST_WORDS>; // bits of the salient columns
var<workgroup> tile: array<f32, TILE>;                // [row][column] of R
var<workgroup> plane0: array<u32, BITS>;              // [row][word]: signs
var<workgroup> plane1: array<u32, BITS>;              // [row][word]: zones, or second signs

fn h_at(i: u32, j: u32) -> f32 { return H[(p.first + i) * p.layer_cols + p.first + j]; }

// Four entries of a column of H, zeros beyond the block.
fn four_of_column(i: u32, j: u32) -> vec4f {
  let at = min(i + vec4u(0, 1, 2, 3), vec4u(p.cols - 1));
  let four = vec4f(h_at(at.x, j), h_at(at.y, j), h_at(at.z, j), h_at(at.w, j));
  return select(vec4f(0.0), four, i + vec4u(0, 1, 2, 3) < vec4u(p.cols));
}

// All ones for each of four columns whose bit is set.
fn four_masks(word: u32, col: u32) -> vec4u {
  let shifts = vec4u(31, 30, 29, 28) - col % 32;
  return bitcast<vec4u>(bitcast<vec4i>(vec4u(word) << shifts) >> vec4u(31));
}

// The product of column j of H with the patterns of all columns of a row.
fn product_with_patterns(at: u32, j: u32) -> Pattern {
  var all = vec4f(0.0);
  var all_signed = vec4f(0.0);
  var high = vec4f(0.0);
  var high_signed = vec4f(0.0);
  for (var i = 0u; i < p.cols; i += 4) {
    let word = at + i / 32;
    var h = bitcast<vec4u>(four_of_column(i, j));
    if (HAS_SALIENT) { h &= ~four_masks(atomicLoad(&marks[i / 32]), i); }
    let minus = ~four_masks(plane0[word], i) & vec4u(0x80000000u);
    let zone = four_masks(plane1[word], i);
    all += bitcast<vec4f>(h);
    all_signed += bitcast<vec4f>(h ^ minus);
    high += bitcast<vec4f>(h & zone);
    high_signed += bitcast<vec4f>((h ^ minus) & zone);
  }
  let sums = vec4f(
    dot(all - high, vec4f(1.0)),
    dot(all_signed - high_signed, vec4f(1.0)),
    dot(high, vec4f(1.0)),
    dot(high_signed, vec4f(1.0)),
  );
  var salient_sums = vec4f(0.0);
  if (HAS_SALIENT) {
    for (var word = 0u; word < (p.cols + 31) / 32; word++) {
      for (var left = atomicLoad(&marks[word]); left != 0; left &= left - 1) {
        let i = firstTrailingBit(left);
        let h = h_at(32 * word + i, j);
        let first = select(-h, h, ((plane0[at + word] >> i) & 1u) == 1u);
        let second = select(-h, h, ((plane1[at + word] >> i) & 1u) == 1u);
        salient_sums += vec4f(h, first, second, 0.0);
      }
    }
  }
  return Pattern(sums, salient_sums);
}

fn is_salient(col: u32) -> bool {
  return HAS_SALIENT && ((atomicLoad(&marks[col / 32]) >> (col % 32)) & 1u) == 1u;
}

// The pattern of a weight's parameters: 0 .. 3 and 4 .. 6.
struct Pattern { ordinary: vec4f, salient: vec4f }

fn pattern_at(at: u32, col: u32) -> Pattern {
  let word = at + col / 32;
  let sign = select(-1.0, 1.0, ((plane0[word] >> (col % 32)) & 1u) == 1u);
  let second = ((plane1[word] >> (col % 32)) & 1u) == 1u;
  if (is_salient(col)) { return Pattern(vec4f(0.0), vec4f(1.0, sign, select(-1.0, 1.0, second), 0.0)); }
  return Pattern(select(vec4f(1.0, sign, 0.0, 0.0), vec4f(0.0, 0.0, 1.0, sign), second), vec4f(0.0));
}

// The values of the codes 0 .. 3 (first bit, then second bit), added up as when they are dequantized.
fn values(ordinary: vec4f, salient: vec4f, of_salient: bool) -> vec4f {
  if (of_salient) {
    let minus = salient.x - salient.y;
    let plus = salient.x + salient.y;
    return vec4f(minus - salient.z, plus - salient.z, minus + salient.z, plus + salient.z);
  }
  return vec4f(
    ordinary.x - ordinary.y,
    ordinary.x + ordinary.y,
    ordinary.z - ordinary.w,
    ordinary.z + ordinary.w,
  );
}

// Solves the seven equations by Gaussian elimination; the matrix is positive definite.
fn solve(matrix: ptr<function, array<f32, 49>>, side: ptr<function, array<f32, 7>>) {
  for (var k = 0u; k < 7; k++) {
    let pivot = 1.0 / (*matrix)[k * 8];
    for (var i = k + 1; i < 7; i++) {
      let factor = (*matrix)[i * 7 + k] * pivot;
      for (var j = k + 1; j < 7; j++) { (*matrix)[i * 7 + j] -= factor * (*matrix)[k * 7 + j]; }
      (*side)[i] -= factor * (*side)[k];
    }
  }
  for (var back = 0u; back < 7; back++) {
    let k = 6 - back;
    var sum = (*side)[k];
    for (var j = k + 1; j < 7; j++) { sum -= (*matrix)[k * 7 + j] * (*side)[j]; }
    (*side)[k] = sum / (*matrix)[k * 8];
  }
}

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let share = lane % LANES;
  let place = lane / LANES;
  let own_row = group.x * ROWS + place;
  let writes = own_row < p.rows;
  let row = min(own_row, p.rows - 1);
  let tile_at = place * STRIDE;
  let bits_at = place * WORDS;
  let words = (p.cols + 31) / 32;
  let source = row * p.words + p.first / 32;
  for (var word = share; word < words; word += LANES) {
    plane0[bits_at + word] = bits[source + word];
    plane1[bits_at + word] = bits[p.rows * p.words + source + word];
  }
  for (var col = share; col < p.cols; col += LANES) {
    tile[tile_at + col] = residual[row * p.layer_cols + p.first + col];
  }
  for (var col = lane; col < p.cols; col += THREADS) {
    if (HAS_SALIENT && salient[p.first + col] == 1) { atomicOr(&marks[col / 32], 1u << (col % 32)); }
  }
  workgroupBarrier();

  let scales_at = (row * p.blocks + p.block) * SCALES;
  var old = vec4f(0.0);
  var old2 = vec4f(0.0);
  for (var i = 0u; i < 4; i++) { old[i] = scales[scales_at + i]; }
  if (HAS_SALIENT) { for (var i = 0u; i < 3; i++) { old2[i] = scales[scales_at + 4 + i]; } }
  let few = values(old, old2, false);
  let few2 = values(old, old2, true);

  for (var col = 0u; col < p.cols; col += 8) {
    workgroupBarrier(); // R and the bits of the columns before are complete
    let eight = min(8u, p.cols - col);
    let word = bits_at + col / 32;
    var signs = plane0[word];
    var zones = plane1[word];
    var r: array<f32, 8>;
    for (var i = 0u; i < eight; i++) { r[i] = tile[tile_at + col + i]; }
    var moves = array<f32, 8>();
    var any_move = false;
    for (var i = 0u; i < eight; i++) {
      let at = (col + i) % 32;
      let code = ((signs >> at) & 1u) | (((zones >> at) & 1u) << 1u);
      let four = select(few, few2, is_salient(col + i));
      let q = four[code];
      let off = abs(four - (q + r[i] / h_at(col + i, col + i)));
      var best = 0u;
      if (off.y < off[best]) { best = 1; }
      if (off.z < off[best]) { best = 2; }
      if (off.w < off[best]) { best = 3; }
      let d = four[best] - q;
      moves[i] = d;
      if (best != code) {
        any_move = true;
        signs = (signs & ~(1u << at)) | ((best & 1u) << at);
        zones = (zones & ~(1u << at)) | ((best >> 1u) << at);
        for (var k = i + 1; k < eight; k++) { r[k] -= d * h_at(col + i, col + k); }
      }
    }
    workgroupBarrier(); // all threads of the row have read these columns
    if (any_move) {
      if (share == 0) {
        plane0[word] = signs;
        plane1[word] = zones;
      }
      for (var j = share; j < p.cols; j += LANES) {
        tile[tile_at + j] -= dot(four_of_column(col, j), vec4f(moves[0], moves[1], moves[2], moves[3])) +
          dot(four_of_column(col + 4, j), vec4f(moves[4], moves[5], moves[6], moves[7]));
      }
    }
  }
  workgroupBarrier();

  // B H Bᵀ and B Rᵀ.
  var a: array<vec4f, 14>;
  var right = vec4f(0.0);
  var right2 = vec4f(0.0);
  for (var j = share; j < p.cols; j += LANES) { // H is symmetric: neighbouring threads read neighbours
    let sums = product_with_patterns(bits_at, j);
    let own = pattern_at(bits_at, j);
    let r = tile[tile_at + j];
    right += r * own.ordinary;
    right2 += r * own.salient;
    for (var i = 0u; i < 4; i++) {
      a[2 * i] += own.ordinary[i] * sums.ordinary;
      a[2 * i + 1] += own.ordinary[i] * sums.salient;
    }
    for (var i = 0u; i < 3; i++) {
      a[8 + 2 * i] += own.salient[i] * sums.ordinary;
      a[9 + 2 * i] += own.salient[i] * sums.salient;
    }
  }
  for (var i = 0u; i < 14; i++) { a[i] = over_row(a[i], lane); }
  right = over_row(right, lane);
  right2 = over_row(right2, lane);

  var matrix: array<f32, 49>;
  var trace = 0.0;
  for (var i = 0u; i < 7; i++) {
    for (var j = 0u; j < 7; j++) { matrix[i * 7 + j] = a[2 * i + j / 4][j % 4]; }
    trace += matrix[i * 8];
  }
  // A parameter that no weight uses has an empty row; the ridge keeps it where it is.
  for (var i = 0u; i < 7; i++) { matrix[i * 8] += 1e-5 * matrix[i * 8] + 1e-12 * trace + 1e-30; }
  var step = array<f32, 7>(right.x, right.y, right.z, right.w, right2.x, right2.y, right2.z);
  solve(&matrix, &step);

  var ordinary = vec4f(0.0);
  var planes = vec4f(0.0);
  for (var i = 0u; i < 4; i++) { ordinary[i] = rounded(old[i] + step[i]); }
  if (HAS_SALIENT) { for (var i = 0u; i < 3; i++) { planes[i] = rounded(old2[i] + step[4 + i]); } }
  if (LANES > 1) { workgroupBarrier(); } // all threads of a row have read its bits
  for (var word = share; word < words; word += LANES) {
    let marked = select(0u, atomicLoad(&marks[word]), HAS_SALIENT);
    let zones = plane1[bits_at + word];
    let others = ~marked & (0xffffffffu >> (32 - min(32u, p.cols - 32 * word))); // none beyond the block
    let flips = select(0u, ~zones & others, ordinary.y < 0.0) |
      select(0u, zones & others, ordinary.w < 0.0) | select(0u, marked, planes.y < 0.0);
    plane0[bits_at + word] ^= flips;
    plane1[bits_at + word] ^= select(0u, marked, planes.z < 0.0);
  }
  ordinary = vec4f(ordinary.x, abs(ordinary.y), ordinary.z, abs(ordinary.w));
  planes = vec4f(planes.x, abs(planes.y), abs(planes.z), 0.0);
  if (LANES > 1) { workgroupBarrier(); }
  let new_few = values(ordinary, planes, false);
  let new_few2 = values(ordinary, planes, true);

  if (!writes) { return; }
  for (var word = share; word < words; word += LANES) {
    bits[source + word] = plane0[bits_at + word];
    bits[p.rows * p.words + source + word] = plane1[bits_at + word];
  }
  for (var col = share; col < p.cols; col += LANES) {
    let word = bits_at + col / 32;
    let code = ((plane0[word] >> (col % 32)) & 1u) | (((plane1[word] >> (col % 32)) & 1u) << 1u);
    let four = select(new_few, new_few2, is_salient(col));
    let q = four[code];
    let at = row * p.layer_cols + p.first + col;
    change[row * p.cols + col] = q - quantized[at];
    quantized[at] = q;
  }
  if (share == 0) {
    for (var i = 0u; i < 4; i++) { scales[scales_at + i] = ordinary[i]; }
    if (HAS_SALIENT) { for (var i = 0u; i < 3; i++) { scales[scales_at + 4 + i] = planes[i]; } }
  }
}
