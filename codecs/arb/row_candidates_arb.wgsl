// The codes of the codec arb for the tabu search of codecs/row_search/: first sign + 2 · zone (or the second
// sign of salient columns without zones) + 4 · second sign. A column with MARK is salient.

override BLOCK: u32 = 128; // columns
override BLOCKS: u32 = 1;
override WORDS: u32 = 4;  // of a row's plane
override SCALES: u32 = 4; // per row and block
override COLUMN_SCALES: bool = true;
override BITMAP: bool = false;
override PLANES: u32 = 2;
override BITS: u32 = WORDS * PLANES;

@group(0) @binding(4) var<storage, read> mask: array<u32>;        // [WORDS], bits
@group(0) @binding(5) var<storage, read> scales: array<f32>;      // [rows, BLOCKS, SCALES]
@group(0) @binding(6) var<storage, read> columns: array<vec4f>;   // [cols]
@group(0) @binding(7) var<storage, read_write> codes: array<u32>; // [rows, WORDS, PLANES]

var<workgroup> planes: array<atomic<u32>, BITS>;

fn signed(x: f32, bit: u32) -> f32 { return select(-x, x, bit == 1); }

fn value_of(row: u32, col: u32, state: u32) -> f32 {
  let at = (row * BLOCKS + col / BLOCK) * SCALES;
  let first = state & 1;
  let second = (state >> 1u) & 1;
  let third = (state >> 2u) & 1;
  if ((state & MARK) == 0) {
    if (COLUMN_SCALES) { return signed(scales[at + second] * columns[col][second], first); }
    return scales[at + 2 * second] + signed(scales[at + 2 * second + 1], first);
  }
  let zone = select(0u, second, BITMAP);
  let last = select(second, third, BITMAP);
  if (COLUMN_SCALES) {
    let own = at + 2 + 2 * zone;
    return signed(scales[own] * columns[col][2 * zone], first) +
      signed(scales[own + 1] * columns[col][2 * zone + 1], last);
  }
  let own = at + 4 + 3 * zone;
  return scales[own] + signed(scales[own + 1], first) + signed(scales[own + 2], last);
}

fn stage(row: u32, lane: u32) {
  for (var i = lane; i < BITS; i += LANES) { atomicStore(&planes[i], 0u); }
}

fn code_of(row: u32, col: u32) -> u32 {
  let at = (row * WORDS + col / 32) * PLANES;
  let i = col % 32;
  var code = ((codes[at] >> i) & 1) | (((codes[at + 1] >> i) & 1) << 1u);
  if (BITMAP) { code |= ((codes[at + 2] >> i) & 1) << 2u; }
  return code | select(0u, MARK, ((mask[col / 32] >> i) & 1) == 1);
}

fn codes_of(state: u32) -> u32 { return select(4u, 8u, BITMAP && (state & MARK) != 0); }

fn best_change(row: u32, col: u32, state: u32, r: f32, h: f32) -> Move {
  let own = value_of(row, col, state);
  var best = Move(1e30, 0.0, col, state & CODE);
  for (var code = 0u; code < codes_of(state); code++) {
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
  for (var plane = 0u; plane < PLANES; plane++) {
    if (((code >> plane) & 1) == 1) {
      atomicOr(&planes[col / 32 * PLANES + plane], 1u << (col % 32));
    }
  }
}

fn finish(row: u32, lane: u32) {
  for (var i = lane; i < BITS; i += LANES) { codes[row * BITS + i] = atomicLoad(&planes[i]); }
}
