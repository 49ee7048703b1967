// Fits mean ± scale to groups of the entries of each row.
//
//   mean = Σ r / n      scale = Σ |r - mean| / n      r ← r - (mean + scale · sign(r - mean))
//
// ZONES 0: the salient columns, PLANES times: each plane fits the residual of the planes before it.
// ZONES 1: the other columns. ZONES 2: the other columns in two groups, low and high zone. An empty
// group gets zeros. sign(0) is +1, as one bit has no zero.
//
// LANES threads share a row. The selected columns are in workgroup memory, where the residual of each
// plane replaces them; a thread reads only entries that it has written itself.
// Source: BiLLM, arXiv:2402.04291. Reference: tests/reference/billm.ts.

override LOADERS: u32 = 32; // threads that load a row together, a divisor of ROWS · LANES
override STRIDE: u32 = 136; // of the rows in workgroup memory, at least the columns
override TILE: u32 = ROWS * STRIDE;
override PLANES: u32 = 1;
override ZONES: u32 = 0;

struct Params { rows: u32, cols: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> weight: array<f32>;    // [rows, cols]
@group(0) @binding(2) var<storage, read> salient: array<u32>;   // [cols]
@group(0) @binding(3) var<storage, read> zones: array<u32>;     // [rows, ceil(cols / 32)], bits
@group(0) @binding(4) var<storage, read_write> fit: array<f32>; // [rows, planes or zones, 2]

const COLS = 256u;                                   // the greatest number of columns of a block
var<workgroup> marks: array<atomic<u32>, COLS / 32>; // bits of the columns in question
var<workgroup> columns: array<u32, COLS>;
var<workgroup> tile: array<f32, TILE>; // [row][column in question]

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  for (var col = lane; col < p.cols; col += THREADS) {
    if ((salient[col] == 1) == (ZONES == 0)) { atomicOr(&marks[col / 32], 1u << (col % 32)); }
  }
  workgroupBarrier();
  var n = 0u;
  for (var i = 0u; i < COLS / 32; i++) { n += countOneBits(atomicLoad(&marks[i])); }
  for (var col = lane; col < p.cols; col += THREADS) {
    let word = atomicLoad(&marks[col / 32]);
    if (((word >> (col % 32)) & 1u) == 0u) { continue; }
    var k = countOneBits(word & ((1u << (col % 32)) - 1));
    for (var i = 0u; i < col / 32; i++) { k += countOneBits(atomicLoad(&marks[i])); }
    columns[k] = col;
  }
  workgroupBarrier();
  for (var r = lane / LOADERS; r < ROWS; r += THREADS / LOADERS) {
    let start = min(group.x * ROWS + r, p.rows - 1) * p.cols;
    for (var first = lane % LOADERS; first < n; first += 4 * LOADERS) {
      let k = first + LOADERS * vec4u(0, 1, 2, 3);
      let near = min(k, vec4u(n - 1));
      let x = vec4f( // four loads in flight
        weight[start + columns[near.x]],
        weight[start + columns[near.y]],
        weight[start + columns[near.z]],
        weight[start + columns[near.w]],
      );
      tile[r * STRIDE + k.x] = x.x;
      if (k.y < n) { tile[r * STRIDE + k.y] = x.y; }
      if (k.z < n) { tile[r * STRIDE + k.z] = x.z; }
      if (k.w < n) { tile[r * STRIDE + k.w] = x.w; }
    }
  }
  workgroupBarrier();

  let own_row = group.x * ROWS + lane / LANES;
  let row = min(own_row, p.rows - 1);
  let writes = own_row < p.rows && lane % LANES == 0;
  let at = lane / LANES * STRIDE;

  if (ZONES == 2) {
    let words = row * ((p.cols + 31) / 32);
    var sums = vec4f(0.0); // n and Σ r of the low zone, n and Σ r of the high one
    for (var k = lane % LANES; k < n; k += LANES) {
      let r = tile[at + k];
      let high = ((zones[words + columns[k] / 32] >> (columns[k] % 32)) & 1u) == 1u;
      sums += select(vec4f(1.0, r, 0.0, 0.0), vec4f(0.0, 0.0, 1.0, r), high);
    }
    sums = over_row(sums, lane);
    let counts = max(sums.xz, vec2f(1.0));
    let means = sums.yw / counts;
    var spread = vec2f(0.0);
    for (var k = lane % LANES; k < n; k += LANES) {
      let d = abs(vec2f(tile[at + k]) - means);
      let high = ((zones[words + columns[k] / 32] >> (columns[k] % 32)) & 1u) == 1u;
      spread += select(vec2f(d.x, 0.0), vec2f(0.0, d.y), high);
    }
    let scales = over_row(vec4f(spread, 0.0, 0.0), lane).xy / counts;
    if (writes) {
      fit[row * 4] = means.x;
      fit[row * 4 + 1] = scales.x;
      fit[row * 4 + 2] = means.y;
      fit[row * 4 + 3] = scales.y;
    }
    return;
  }

  let count = max(f32(n), 1.0);
  for (var plane = 0u; plane < PLANES; plane++) {
    var sum = 0.0;
    for (var k = lane % LANES; k < n; k += LANES) { sum += tile[at + k]; }
    let mean = over_row(vec4f(sum), lane).x / count;
    var spread = 0.0;
    for (var k = lane % LANES; k < n; k += LANES) { spread += abs(tile[at + k] - mean); }
    let scale = over_row(vec4f(spread), lane).x / count;
    if (writes) {
      fit[(row * PLANES + plane) * 2] = mean;
      fit[(row * PLANES + plane) * 2 + 1] = scale;
    }
    if (plane + 1 < PLANES) {
      for (var k = lane % LANES; k < n; k += LANES) {
        let r = tile[at + k] - mean;
        tile[at + k] = r - select(-scale, scale, r >= 0.0);
      }
    }
  }
}
