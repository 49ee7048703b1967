// Quantizes a block to the bits of the codec arb, and stores them with the scales, rounded to f16.
//
// Bits are given, or with NEAREST those of the nearest stored value of the weight's zones (both zones of
// ordinary columns; of salient ones with BITMAP). With FEEDBACK, columns settle one after the other, and
// later ones of the block first compensate for the error: w_k -= e U_jk, e = (w_j - q_j) / U_jj.
//
// ROWS rows in workgroup memory, LANES threads of a row, each of which decides alike and moves its share
// of the later columns. round_f16.wgsl provides rounded(). Reference: tests/reference/arb.ts.

override ROWS: u32 = 16;
override LANES: u32 = 8;
override STRIDE: u32 = 132; // of rows in workgroup memory
override COLUMN_SCALES: bool = true;
override BITMAP: bool = false;
override NEAREST: bool = false;
override FEEDBACK: bool = false;
override SCALES: u32 = 4;
override FITS: u32 = 6; // numbers of a row in `fits`
override THREADS: u32 = ROWS * LANES;
override TILE: u32 = ROWS * STRIDE;

struct Params {
  rows: u32, cols: u32, first: u32, layer_cols: u32, words: u32, block: u32, blocks: u32
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> weight: array<f32>;           // [rows, cols]
@group(0) @binding(2) var<storage, read> salient: array<u32>;          // [cols], 0 or 1
@group(0) @binding(3) var<storage, read> zones: array<u32>;            // [rows, ⌈cols / 32⌉], bits
@group(0) @binding(4) var<storage, read> signs: array<u32>;            // [2, rows, ⌈cols / 32⌉], bits
@group(0) @binding(5) var<storage, read> fits: array<f32>;             // [rows, FITS]
@group(0) @binding(6) var<storage, read> col_scales: array<vec4f>;     // [cols]
@group(0) @binding(7) var<storage, read> factor: array<f32>;           // [layer_cols, layer_cols]
@group(0) @binding(8) var<storage, read_write> quantized: array<f32>;  // [rows, layer_cols]
@group(0) @binding(9) var<storage, read_write> error: array<f32>;      // [rows, cols]
@group(0) @binding(10) var<storage, read_write> codes: array<u32>;     // [rows, words, planes]
@group(0) @binding(11) var<storage, read_write> scales: array<f32>;    // [rows, blocks, SCALES]
@group(0) @binding(12) var<storage, read_write> columns: array<vec4f>; // [32 · words]
@group(0) @binding(13) var<storage, read_write> mask: array<u32>;      // [words]

var<workgroup> tile: array<f32, TILE>;

struct Choice { far: f32, q: f32, bits: vec3u } // first sign, zone, second sign

fn nearer(a: Choice, b: Choice) -> Choice {
  if (b.far < a.far) { return b; }
  return a;
}

fn signed(x: f32, bit: u32) -> f32 { return select(-x, x, bit == 1); }

fn rounded4(v: vec4f) -> vec4f {
  return vec4f(rounded(v.x), rounded(v.y), rounded(v.z), rounded(v.w));
}

// The value of the bits of an ordinary column with scales `c`, of the fits `own`.
fn ordinary(w: f32, own: ptr<function, array<f32, 10>>, c: vec4f, zone: u32, bit: u32) -> Choice {
  var q: f32;
  if (COLUMN_SCALES) { q = signed((*own)[zone] * c[zone], bit); } else {
    q = (*own)[2 * zone] + signed((*own)[2 * zone + 1], bit);
  }
  return Choice(abs(w - q), q, vec3u(bit, zone, 0));
}

fn extra(w: f32, own: ptr<function, array<f32, 10>>, c: vec4f, zone: u32, both: vec2u) -> Choice {
  var q: f32;
  if (COLUMN_SCALES) {
    let at = 2 + 2 * zone;
    q = signed((*own)[at] * c[2 * zone], both.x) + signed((*own)[at + 1] * c[2 * zone + 1], both.y);
  } else {
    let at = 4 + 3 * zone;
    q = (*own)[at] + signed((*own)[at + 1], both.x) + signed((*own)[at + 2], both.y);
  }
  return Choice(abs(w - q), q, vec3u(both.x, zone, both.y));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let words = (p.cols + 31) / 32;
  if (group.x == 0) {
    for (var word = lane; word < words; word += THREADS) {
      var marks = 0u;
      for (var i = 0u; i < min(32u, p.cols - word * 32); i++) { marks |= salient[word * 32 + i] << i; }
      mask[p.first / 32 + word] = marks;
    }
    if (COLUMN_SCALES) {
      for (var col = lane; col < p.cols; col += THREADS) {
        var c = rounded4(col_scales[col]);
        if (salient[col] == 0 || !BITMAP) { c = vec4f(c.xy, 0.0, 0.0); }
        columns[p.first + col] = c;
      }
    }
  }
  let place = lane / LANES;
  let share = lane % LANES;
  let is_row = group.x * ROWS + place < p.rows;
  let row = min(group.x * ROWS + place, p.rows - 1);
  let at = place * STRIDE;
  for (var col = share; col < p.cols; col += LANES) { tile[at + col] = weight[row * p.cols + col]; }
  var own: array<f32, 10>;
  for (var i = 0u; i < SCALES; i++) {
    let value = rounded(fits[row * FITS + i]);
    own[i] = select(value, 0.0, value == 0.0); // not -0
    if (is_row && share == 0) { scales[(row * p.blocks + p.block) * SCALES + i] = own[i]; }
  }
  workgroupBarrier();
  let planes = select(2u, 3u, BITMAP);
  var zone_word = 0u;
  var first_word = 0u;
  var second_word = 0u;
  var out = vec3u(0);
  for (var col = 0u; col < p.cols; col++) {
    let i = col % 32;
    if (i == 0) {
      let word_at = row * words + col / 32;
      zone_word = zones[word_at];
      if (!NEAREST) {
        first_word = signs[word_at];
        second_word = signs[p.rows * words + word_at];
      }
    }
    let w = tile[at + col];
    var c = vec4f(0.0);
    if (COLUMN_SCALES) { c = rounded4(col_scales[col]); }
    var best: Choice;
    var zone = (zone_word >> i) & 1;
    if (salient[col] == 0) {
      if (NEAREST) {
        best = ordinary(w, &own, c, 0u, 0u);
        best = nearer(best, ordinary(w, &own, c, 0u, 1u));
        best = nearer(best, ordinary(w, &own, c, 1u, 0u));
        best = nearer(best, ordinary(w, &own, c, 1u, 1u));
      } else {
        best = ordinary(w, &own, c, zone, (first_word >> i) & 1);
      }
    } else if (NEAREST) {
      best = Choice(1e30, 0.0, vec3u(0));
      for (var code = 0u; code < select(4u, 8u, BITMAP); code++) {
        best = nearer(best, extra(w, &own, c, code >> 2u, vec2u(code & 1, (code >> 1u) & 1)));
      }
    } else {
      if (!BITMAP) { zone = 0; }
      best = extra(w, &own, c, zone, vec2u((first_word >> i) & 1, (second_word >> i) & 1));
    }
    if (!BITMAP && salient[col] == 1) { best.bits.y = best.bits.z; }
    out |= best.bits << vec3u(i);
    let u = factor[(p.first + col) * (p.layer_cols + 1)];
    let e = (w - best.q) / u;
    if (is_row && share == col % LANES) {
      quantized[row * p.layer_cols + p.first + col] = best.q;
      error[row * p.cols + col] = e;
    }
    if (FEEDBACK) {
      let start = (p.first + col) * p.layer_cols + p.first;
      // Each thread moves the columns that are its share.
      for (var k = col + 1 + (share + LANES - (col + 1) % LANES) % LANES; k < p.cols; k += LANES) {
        tile[at + k] -= e * factor[start + k];
      }
      if (LANES > 1) { workgroupBarrier(); }
    }
    if (i == 31 || col + 1 == p.cols) {
      if (is_row && share == 0) {
        let code_at = (row * p.words + (p.first + col) / 32) * planes;
        for (var plane = 0u; plane < planes; plane++) { codes[code_at + plane] = out[plane]; }
      }
      out = vec3u(0);
    }
  }
}
