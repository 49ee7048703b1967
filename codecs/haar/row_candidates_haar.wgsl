// The coefficients of the codec haar for the tabu search of codecs/row_search/: sign + 2 · group. Either
// those of two of the planes in all columns, with MARK for salient columns that are apart, or with EXTRA
// the further ones of salient columns alone.

override BLOCK: u32 = 128; // columns
override BLOCKS: u32 = 1;
override WORDS: u32 = 4;   // of a row's plane
override SCALES: u32 = 10; // per row and block
override PLANES: u32 = 4;
override EXTRA: bool = false;
override BY_ROWS: bool = true;
override BITS: u32 = WORDS * 2;

@group(0) @binding(4) var<storage, read> mask: array<u32>;        // [WORDS], bits
@group(0) @binding(5) var<storage, read> scales: array<f32>;      // [rows, BLOCKS, SCALES]
@group(0) @binding(6) var<storage, read_write> codes: array<u32>; // [rows, WORDS, PLANES]

var<workgroup> planes: array<atomic<u32>, BITS>;

fn value_of(row: u32, col: u32, state: u32) -> f32 {
  let at = (row * BLOCKS + col / BLOCK) * SCALES;
  let group = (state >> 1u) & 1;
  var mean: f32;
  var scale: f32;
  if (EXTRA || (!BY_ROWS && (state & MARK) != 0)) {
    mean = scales[at + SCALES - 4 + 2 * group];
    scale = scales[at + SCALES - 3 + 2 * group];
  } else {
    let band = at + select(0u, 3 * (col & 1), BY_ROWS);
    mean = scales[band];
    scale = scales[band + 1 + group];
  }
  return mean + select(-scale, scale, (state & 1) == 1);
}

fn stage(row: u32, lane: u32) {
  for (var i = lane; i < BITS; i += LANES) { atomicStore(&planes[i], 0u); }
}

fn code_of(row: u32, col: u32) -> u32 {
  let at = (row * WORDS + col / 32) * PLANES + select(0u, 2u, EXTRA);
  let i = col % 32;
  let code = ((codes[at] >> i) & 1) | (((codes[at + 1] >> i) & 1) << 1u);
  return code | select(0u, MARK, ((mask[col / 32] >> i) & 1) == 1);
}

fn best_change(row: u32, col: u32, state: u32, r: f32, h: f32) -> Move {
  var best = Move(1e30, 0.0, col, state & CODE);
  if (EXTRA && (state & MARK) == 0) { return best; }
  let own = value_of(row, col, state);
  for (var code = 0u; code < 4; code++) {
    let d = value_of(row, col, code | (state & MARK)) - own;
    let gain = d * (h * d - 2.0 * r);
    if (d != 0.0 && gain < best.gain) { best = Move(gain, d, col, code); }
  }
  return best;
}

fn least_gain(row: u32, col: u32, state: u32, r: f32, h: f32) -> f32 {
  return best_change(row, col, state, r, h).gain;
}

fn put(row: u32, col: u32, code: u32) {
  if (EXTRA && ((mask[col / 32] >> (col % 32)) & 1) == 0) { return; }
  for (var plane = 0u; plane < 2; plane++) {
    if (((code >> plane) & 1) == 1) { atomicOr(&planes[col / 32 * 2 + plane], 1u << (col % 32)); }
  }
}

fn finish(row: u32, lane: u32) {
  for (var i = lane; i < BITS; i += LANES) {
    codes[(row * WORDS + i / 2) * PLANES + select(0u, 2u, EXTRA) + i % 2] = atomicLoad(&planes[i]);
  }
}
