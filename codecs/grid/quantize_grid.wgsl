// Quantizes each weight of a block to a code on its grid and the dequantized value.
//
//   range         code = round(w / scale) + zero, within 0 .. TOP      q = scale · (code - zero)
//                 code = round(w / scale + zero) if zeros may lie BETWEEN codes
//   mean, sign    code = 1 if w >= center, else 0                      q = center ± scale
//
// With HAS_SALIENT, weights that the mask marks have codes of eight bits on the range of their row. Later
// columns compensate for the error (w - q) / U_jj: with FEEDBACK those of the block immediately,
// w_k -= error · U_jk, as in GPTQ; those after the block by a matrix product.
//
// With SCATTERED, `mask` is the original column of each column instead, which has the fit of its group.
//
// Columns are sequential, rows are independent. With FEEDBACK all LANES threads of a row quantize each
// column, and each updates its share of the later ones, which are in workgroup memory.
//
// Source: GPTQ, arXiv:2210.17323; PB-LLM, arXiv:2310.00034. Reference: tests/reference/grid.ts.

override ROWS: u32 = 8;
override LANES: u32 = 8;  // threads of a row
override COLS: u32 = 128; // at least those of a block
override FEEDBACK: bool = false;
override TILE: u32 = select(1u, ROWS * COLS, FEEDBACK);
override HAS_FACTOR: bool = false;
override HAS_SALIENT: bool = false;
override CENTERED: bool = false; // mean or sign
override BETWEEN: bool = false;
override SCATTERED: bool = false;
override BITS: u32 = 2;
override CODE_WORDS: u32 = 2; // of 32 columns: BITS, and 8 with salient weights

struct Params { rows: u32, cols: u32, first: u32, layer_cols: u32, words: u32, group: u32, groups: u32, group_size: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> weight: array<f32>;          // [rows, cols]
@group(0) @binding(2) var<storage, read> fits: array<f32>;            // [rows, groups, 2]: scale; zero or center
@group(0) @binding(3) var<storage, read> mask: array<u32>;            // [rows, words], bits; [layer_cols] if SCATTERED
@group(0) @binding(4) var<storage, read> salient_fits: array<f32>;    // [rows, 2]: scale, zero
@group(0) @binding(5) var<storage, read> factor: array<f32>;          // U: [layer_cols, layer_cols]
@group(0) @binding(6) var<storage, read_write> quantized: array<f32>; // [rows, layer_cols]
@group(0) @binding(7) var<storage, read_write> error: array<f32>;     // [rows, cols]
@group(0) @binding(8) var<storage, read_write> codes: array<u32>;     // [rows, words, CODE_WORDS]

var<workgroup> tile: array<f32, TILE>; // [row][column]

// A code and its dequantized value.
struct Chosen { code: u32, q: f32 }

fn on_range(w: f32, fit: vec2f, top: f32, between: bool) -> Chosen {
  var code: f32;
  if (between) { code = round(w / fit.x + fit.y); } else { code = round(w / fit.x) + fit.y; }
  code = clamp(code, 0.0, top);
  return Chosen(u32(code), fit.x * (code - fit.y));
}

fn on_either_side(w: f32, fit: vec2f) -> Chosen {
  let above = w >= fit.y;
  return Chosen(u32(above), fit.y + select(-fit.x, fit.x, above));
}

// Writes code i of `width` bits, counted from word `first` of `out`.
fn put(code: u32, i: u32, width: u32, first: u32, out: ptr<function, array<u32, 16>>) {
  let at = i * width;
  let word = first + at / 32;
  let shift = at % 32;
  (*out)[word] |= code << shift;
  if (shift + width > 32) { (*out)[word + 1] |= code >> (32 - shift); }
}

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let share = lane % LANES; // of the row
  let place = lane / LANES; // of the row in the workgroup
  let own_row = group.x * ROWS + place;
  let writes = own_row < p.rows && share == 0;
  let row = min(own_row, p.rows - 1);
  if (FEEDBACK) {
    for (var col = share; col < p.cols; col += LANES) {
      tile[place * COLS + col] = weight[row * p.cols + col];
    }
  }
  let fit_at = (row * p.groups + p.group) * 2;
  var fit = vec2f(fits[fit_at], fits[fit_at + 1]);
  var salient_fit = vec2f(1.0, 0.0);
  if (HAS_SALIENT) { salient_fit = vec2f(salient_fits[row * 2], salient_fits[row * 2 + 1]); }
  let top = f32((1u << BITS) - 1u);

  for (var first = 0u; first < p.cols; first += 32) {
    let word = row * p.words + (p.first + first) / 32;
    var marked = 0u;
    if (HAS_SALIENT) { marked = mask[word]; }
    var out: array<u32, 16>;
    for (var i = 0u; i < CODE_WORDS; i++) { out[i] = 0; } // also after the first round
    for (var i = 0u; i < min(32u, p.cols - first); i++) {
      let col = first + i;
      var w: f32;
      if (FEEDBACK) {
        workgroupBarrier(); // for what the other threads of the row have moved
        w = tile[place * COLS + col];
      } else {
        w = weight[row * p.cols + col];
      }
      if (SCATTERED) {
        let at = (row * p.groups + mask[p.first + col] / p.group_size) * 2;
        fit = vec2f(fits[at], fits[at + 1]);
      }
      var chosen: Chosen;
      if (((marked >> i) & 1u) == 1u) {
        chosen = on_range(w, salient_fit, 255.0, false);
        put(chosen.code, i, 8, BITS, &out);
      } else {
        if (CENTERED) { chosen = on_either_side(w, fit); } else { chosen = on_range(w, fit, top, BETWEEN); }
        put(chosen.code, i, BITS, 0, &out);
      }
      var e = 0.0;
      if (HAS_FACTOR) {
        let diagonal = (p.first + col) * (p.layer_cols + 1);
        e = (w - chosen.q) / factor[diagonal];
        if (FEEDBACK) {
          for (var k = col + 1 + share; k < p.cols; k += LANES) {
            tile[place * COLS + k] -= e * factor[diagonal + k - col];
          }
        }
      }
      if (writes) {
        quantized[row * p.layer_cols + p.first + col] = chosen.q;
        if (HAS_FACTOR) { error[row * p.cols + col] = e; }
      }
    }
    if (writes) {
      for (var i = 0u; i < CODE_WORDS; i++) { codes[word * CODE_WORDS + i] = out[i]; }
    }
  }
}
