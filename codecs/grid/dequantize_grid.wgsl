// weight[r, c] = the dequantized value of a grid layer.
//
//   range         scale · (code - zero)      mean, sign    center ± scale
//
// Marked weights have codes of eight bits on the range of their row. Host and GPU are bit-identical: each
// value takes one difference or sum and at most one product, all rounded to f32. A thread computes 32 columns.
// Reference: dequantizeGridHost() in codecs/grid/store.ts.

override HAS_SALIENT: bool = false;
override CENTERED: bool = false; // mean or sign
override ORDERED: bool = false;  // codes are in the order of `order`
override BITS: u32 = 2;
override CODE_WORDS: u32 = 2; // of 32 columns: BITS, and 8 with salient weights

struct Params { rows: u32, cols: u32, words: u32, group_size: u32, groups: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> codes: array<u32>;        // [rows, words, CODE_WORDS]
@group(0) @binding(2) var<storage, read> fits: array<f32>;         // [rows, groups, 2]: scale; zero or center
@group(0) @binding(3) var<storage, read> mask: array<u32>;         // [rows, words], bits
@group(0) @binding(4) var<storage, read> salient_fits: array<f32>; // [rows, 2]: scale, zero
@group(0) @binding(5) var<storage, read> order: array<u32>;        // [cols]: the column of each place
@group(0) @binding(6) var<storage, read_write> weight: array<f32>; // [rows, cols]

// Code i of `width` bits, counted from word `first`.
fn code_at(first: u32, i: u32, width: u32) -> f32 {
  let at = i * width;
  let word = first + at / 32;
  let shift = at % 32;
  var code = codes[word] >> shift;
  if (shift + width > 32) { code |= codes[word + 1] << (32 - shift); }
  return f32(code & ((1u << width) - 1));
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.y * groups.x * 64 + id.x;
  let row = index / p.words;
  if (row >= p.rows) { return; }
  let first = index % p.words * 32;
  let fit_at = (row * p.groups + first / p.group_size) * 2;
  let fit = vec2f(fits[fit_at], fits[fit_at + 1]);
  var salient_fit = vec2f(1.0, 0.0);
  var marked = 0u;
  if (HAS_SALIENT) {
    salient_fit = vec2f(salient_fits[row * 2], salient_fits[row * 2 + 1]);
    marked = mask[index];
  }
  for (var i = 0u; i < min(32u, p.cols - first); i++) {
    var value: f32;
    if (((marked >> i) & 1u) == 1u) {
      value = salient_fit.x * (code_at(index * CODE_WORDS + BITS, i, 8) - salient_fit.y);
    } else {
      let code = code_at(index * CODE_WORDS, i, BITS);
      if (CENTERED) { value = fit.y + select(-fit.x, fit.x, code == 1.0); } else { value = fit.x * (code - fit.y); }
    }
    var col = first + i;
    if (ORDERED) { col = order[col]; }
    weight[row * p.cols + col] = value;
  }
}
