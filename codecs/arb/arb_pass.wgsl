// A half step of the alternation between scales of rows and of columns: one plane's scales of the rows,
// and the sums of which arb_columns.wgsl makes those of the columns.
//
//   t = W - the other plane (salient columns; else W), B the plane's signs, over the columns j of a zone:
//   r(i) = Σ_j cost c B t / Σ_j cost c²         c(j) = Σ_i r B t / Σ_i r²
//
// FIRST starts with c = 1, signs of t, and c(j) = mean of |t| / r. With p.assigns, salient weights first
// take the nearest of the sums of both planes; with NEAREST all weights do, of both zones. If it is 2, that
// is all.
//
// ROWS rows in workgroup memory; a thread takes a word of 32 columns of a row, then some columns.
// Source: ARB-LLM with row and column scales, arXiv:2410.03129. Reference: tests/reference/arb.ts.

override ROWS: u32 = 16;
override WORDS: u32 = 4;    // of a row of a whole block
override STRIDE: u32 = 132; // of rows in workgroup memory
override PLANE: u32 = 0;
override FIRST: bool = false;
override NEAREST: bool = false;
override BITMAP: bool = false; // whether salient columns have zones
override THREADS: u32 = ROWS * WORDS;
override TILE: u32 = ROWS * STRIDE;
override CLASSES: u32 = 4 * ROWS;

struct Params { rows: u32, cols: u32, assigns: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> weight: array<f32>;           // [rows, cols]
@group(0) @binding(2) var<storage, read> salient: array<u32>;          // [cols], 0 or 1
@group(0) @binding(3) var<storage, read> cost: array<f32>;             // [cols]
@group(0) @binding(4) var<storage, read_write> zones: array<u32>;      // [rows, words], bits
@group(0) @binding(5) var<storage, read_write> signs: array<u32>;      // [2, rows, words], bits
@group(0) @binding(6) var<storage, read_write> row_scales: array<f32>; // [rows, 6]
@group(0) @binding(7) var<storage, read> col_scales: array<vec4f>;     // [cols]
@group(0) @binding(8) var<storage, read_write> part: array<vec4f>;     // [groups, cols]: Σ, Σ of a zone

var<workgroup> marks: array<atomic<u32>, WORDS>;
var<workgroup> tile: array<f32, TILE>; // B t
var<workgroup> zone_bits: array<u32, THREADS>;
var<workgroup> tops: array<vec4f, THREADS>; // by class: low, high, salient low, high
var<workgroup> bottoms: array<vec4f, THREADS>;
var<workgroup> scales: array<f32, CLASSES>; // [ROWS, classes]

fn signed(x: f32, plus: bool) -> f32 { return select(-x, x, plus); }

// A choice of bits and its distance from the weight.
struct Choice { far: f32, zone: u32, first: bool, second: bool }

fn nearer(a: Choice, b: Choice) -> Choice {
  if (b.far < a.far) { return b; }
  return a;
}

// The nearest of the sums ± x ± y.
fn nearest_sum(w: f32, x: f32, y: f32, zone: u32) -> Choice {
  var best = Choice(abs(w - x - y), zone, true, true);
  best = nearer(best, Choice(abs(w + x + y), zone, false, false));
  best = nearer(best, Choice(abs(w - x + y), zone, true, false));
  return nearer(best, Choice(abs(w + x - y), zone, false, true));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  for (var col = lane; col < p.cols; col += THREADS) {
    if (salient[col] == 1) { atomicOr(&marks[col / 32], 1u << (col % 32)); }
  }
  workgroupBarrier();
  let place = lane / WORDS; // of the row in the tile
  let word = lane % WORDS;
  let words = (p.cols + 31) / 32;
  let is_word = word < words;
  let is_row = group.x * ROWS + place < p.rows;
  let row = min(group.x * ROWS + place, p.rows - 1);
  let at = row * words + min(word, words - 1);
  let second_at = p.rows * words + at;
  let mask = atomicLoad(&marks[word]);
  var zone_word = zones[at];
  var first_word = 0u;
  var second_word = 0u;
  if (!FIRST || PLANE == 1) { first_word = signs[at]; }
  if (!FIRST) { second_word = signs[second_at]; }
  var r: array<f32, 6>;
  if (!FIRST || PLANE == 1) {
    for (var i = 0u; i < 6; i++) { r[i] = row_scales[row * 6 + i]; }
  }
  var top = vec4f(0.0);
  var bottom = vec4f(0.0);
  for (var i = 0u; i < min(32u, p.cols - min(p.cols, word * 32)); i++) {
    let col = word * 32 + i;
    let w = weight[row * p.cols + col];
    let bit = 1u << i;
    let c = col_scales[col];
    var zone = select(0u, 1u, (zone_word & bit) != 0);
    var value = 0.0;
    var class_ = zone;
    var k = c[zone];
    if ((mask & bit) == 0) {
      if (PLANE == 1) { tile[place * STRIDE + col] = 0.0; continue; }
      if (NEAREST && !FIRST && p.assigns > 0) {
        let high = abs(abs(w) - r[1] * c.y) < abs(abs(w) - r[0] * c.x);
        zone = select(0u, 1u, high);
        zone_word = select(zone_word & ~bit, zone_word | bit, high);
        class_ = zone;
        k = c[zone];
      }
      first_word = select(first_word & ~bit, first_word | bit, w >= 0.0);
      value = abs(w);
    } else {
      if (!BITMAP) { zone = 0u; }
      if (!FIRST && PLANE == 0 && p.assigns > 0) {
        var best = nearest_sum(w, r[2 + 2 * zone] * c[2 * zone], r[3 + 2 * zone] * c[2 * zone + 1], zone);
        if (BITMAP && NEAREST) {
          let other = 1 - zone;
          best = nearer(best,
            nearest_sum(w, r[2 + 2 * other] * c[2 * other], r[3 + 2 * other] * c[2 * other + 1], other));
          zone = best.zone;
          zone_word = select(zone_word & ~bit, zone_word | bit, zone == 1);
        }
        first_word = select(first_word & ~bit, first_word | bit, best.first);
        second_word = select(second_word & ~bit, second_word | bit, best.second);
      }
      let first = signed(r[2 + 2 * zone] * c[2 * zone], (first_word & bit) != 0);
      let second = signed(r[3 + 2 * zone] * c[2 * zone + 1], (second_word & bit) != 0);
      if (PLANE == 0) {
        var t = w - second;
        if (FIRST) { t = w; first_word = select(first_word & ~bit, first_word | bit, t >= 0.0); }
        value = signed(t, (first_word & bit) != 0);
        k = c[2 * zone];
      } else {
        let t = w - first;
        if (FIRST) { second_word = select(second_word & ~bit, second_word | bit, t >= 0.0); }
        value = signed(t, (second_word & bit) != 0);
        k = c[2 * zone + 1];
      }
      class_ = 2 + zone;
    }
    if (FIRST) { k = 1.0; }
    tile[place * STRIDE + col] = value;
    let here = vec4u(0, 1, 2, 3) == vec4u(class_);
    top += select(vec4f(0.0), vec4f(cost[col] * k * value), here);
    bottom += select(vec4f(0.0), vec4f(cost[col] * k * k), here);
  }
  zone_bits[lane] = zone_word;
  tops[lane] = top;
  bottoms[lane] = bottom;
  workgroupBarrier();
  if (is_row && is_word) {
    zones[at] = zone_word;
    if (PLANE == 0) { signs[at] = first_word; }
    if (PLANE == 1 || !FIRST) { signs[second_at] = second_word; }
  }
  if (p.assigns == 2) { return; } // only new bits
  if (word == 0) {
    for (var i = 1u; i < WORDS; i++) {
      top += tops[lane + i];
      bottom += bottoms[lane + i];
    }
    // A zone without weights keeps its scale.
    var old = vec4f(0.0);
    if (!FIRST) {
      if (PLANE == 0) { old = vec4f(r[0], r[1], r[2], r[4]); } else { old = vec4f(0.0, 0.0, r[3], r[5]); }
    }
    let own = select(old, top / max(bottom, vec4f(1e-37)), bottom > vec4f(0.0));
    for (var i = 0u; i < 4; i++) { scales[place * 4 + i] = select(0.0, own[i], is_row); }
    if (is_row) {
      if (PLANE == 0) {
        row_scales[row * 6] = own.x;
        row_scales[row * 6 + 1] = own.y;
      }
      row_scales[row * 6 + 2 + PLANE] = own.z;
      row_scales[row * 6 + 4 + PLANE] = own.w;
    }
  }
  workgroupBarrier();
  for (var col = lane; col < p.cols; col += THREADS) {
    let is_salient = ((atomicLoad(&marks[col / 32]) >> (col % 32)) & 1) == 1;
    if (PLANE == 1 && !is_salient) { continue; }
    var sums = vec4f(0.0);
    for (var i = 0u; i < min(ROWS, p.rows - group.x * ROWS); i++) {
      var high = ((zone_bits[i * WORDS + col / 32] >> (col % 32)) & 1) == 1;
      if (is_salient && !BITMAP) { high = false; }
      let own = scales[i * 4 + select(0u, 2u, is_salient) + select(0u, 1u, high)];
      let value = tile[i * STRIDE + col];
      var both = vec2f(own * value, own * own);
      if (FIRST) { both = vec2f(value / max(own, 1e-37), 1.0); }
      sums += select(vec4f(both, 0.0, 0.0), vec4f(0.0, 0.0, both), high);
    }
    part[group.x * p.cols + col] = sums;
  }
}
