// The codes of BiLLM's bits for the tabu search of codecs/row_search/: first bit + 2 · second bit. A column
// with MARK is salient.

override BLOCK: u32 = 128;    // columns
override STAGED: bool = true; // whether workgroup memory holds the steps
override STEPS: u32 = 40;     // 8 · BLOCKS, or 1 if they are not staged
override BLOCKS: u32 = 5;
override WORDS: u32 = 18; // of a row's bits
override HAS_SALIENT: bool = true;
override SCALES: u32 = 7; // per row and block: zones' (mean, scale), salient mean, salient scales

@group(0) @binding(4) var<storage, read> salient: array<u32>;    // [cols], 0 or 1
@group(0) @binding(5) var<storage, read> scales: array<f32>;     // [rows, BLOCKS, SCALES]
@group(0) @binding(6) var<storage, read_write> bits: array<u32>; // [2, rows, WORDS]

// The steps from each of the four codes of a table to the others.
var<workgroup> steps: array<vec4f, STEPS>;
var<workgroup> plane0: array<atomic<u32>, WORDS>;
var<workgroup> plane1: array<atomic<u32>, WORDS>;

// The values of the codes of ordinary columns (table 2 b) and of salient ones (2 b + 1) of block b.
fn levels_of(row: u32, table: u32) -> vec4f {
  let at = (row * BLOCKS + table / 2) * SCALES;
  if (table % 2 == 1) {
    let minus = scales[at + 4] - scales[at + 5];
    let plus = scales[at + 4] + scales[at + 5];
    let second = scales[at + 6];
    return vec4f(minus - second, plus - second, minus + second, plus + second);
  }
  let low = vec2f(scales[at], scales[at + 1]);
  let high = vec2f(scales[at + 2], scales[at + 3]);
  return vec4f(low.x - low.y, low.x + low.y, high.x - high.y, high.x + high.y);
}

fn one_of(four: vec4f, code: u32) -> f32 {
  let pair = select(four.xy, four.zw, (code & 2u) == 2u);
  return select(pair.x, pair.y, (code & 1u) == 1u);
}

// The steps from a code to the others; a step of 0 is so large that it is never the best.
fn steps_from(four: vec4f, code: u32) -> vec4f {
  let d = four - one_of(four, code);
  return select(d, vec4f(1e16), d == vec4f(0.0));
}

fn stage(row: u32, lane: u32) {
  if (STAGED) {
    for (var table = lane; table < 2 * BLOCKS; table += LANES) {
      if (HAS_SALIENT || (table % 2 == 0)) {
        let four = levels_of(row, table);
        for (var code = 0u; code < 4; code++) { steps[4 * table + code] = steps_from(four, code); }
      }
    }
  }
  for (var word = lane; word < WORDS; word += LANES) {
    atomicStore(&plane0[word], 0u);
    atomicStore(&plane1[word], 0u);
  }
}

fn code_of(row: u32, col: u32) -> u32 {
  let at = row * WORDS + col / 32;
  let code = ((bits[at] >> (col % 32)) & 1u) |
    (((bits[p.rows * WORDS + at] >> (col % 32)) & 1u) << 1u);
  return code | select(0u, MARK, HAS_SALIENT && (salient[col] == 1));
}

fn table_of(col: u32, state: u32) -> u32 {
  return 2 * (col / BLOCK) + select(0u, 1u, (state & MARK) != 0);
}

fn least_gain(row: u32, col: u32, state: u32, r: f32, h: f32) -> f32 {
  let table = table_of(col, state);
  var d: vec4f;
  if (STAGED) { d = steps[4 * table + (state & 3u)]; } else { d = steps_from(levels_of(row, table), state); }
  let gains = d * (h * d - 2.0 * r);
  return min(min(gains.x, gains.y), min(gains.z, gains.w));
}

fn best_change(row: u32, col: u32, state: u32, r: f32, h: f32) -> Move {
  let four = levels_of(row, table_of(col, state));
  let d = four - one_of(four, state);
  let gains = select(d * (h * d - 2.0 * r), vec4f(1e30), d == vec4f(0.0));
  var best = Move(gains.x, d.x, col, 0u);
  if (gains.y < best.gain) { best = Move(gains.y, d.y, col, 1u); }
  if (gains.z < best.gain) { best = Move(gains.z, d.z, col, 2u); }
  if (gains.w < best.gain) { best = Move(gains.w, d.w, col, 3u); }
  return best;
}

fn value_of(row: u32, col: u32, state: u32) -> f32 {
  return one_of(levels_of(row, table_of(col, state)), state);
}

fn put(row: u32, col: u32, code: u32) {
  if ((code & 1u) == 1u) { atomicOr(&plane0[col / 32], 1u << (col % 32)); }
  if ((code & 2u) == 2u) { atomicOr(&plane1[col / 32], 1u << (col % 32)); }
}

fn finish(row: u32, lane: u32) {
  for (var word = lane; word < WORDS; word += LANES) {
    bits[row * WORDS + word] = atomicLoad(&plane0[word]);
    bits[(p.rows + row) * WORDS + word] = atomicLoad(&plane1[word]);
  }
}
