// weight[r, c] = the level of the code of column c, of the levels of row r.
//
// A thread takes some fields of a row; the codes of a field's columns are the digits of one number, the
// first column's the lowest. Host and GPU are bit-identical: a level is a parameter, its negative, 0 or
// one product rounded to f32.
// levels_source.ts provides levels_of() and level().
//
// Reference: dequantizeLevelsHost() in codecs/levels/store.ts.

override COUNT: u32 = 4;  // levels
override DIGITS: u32 = 1; // columns of a field
override BITS: u32 = 2;   // of a field
override EACH: u32 = 16;  // fields of a thread

struct Params { rows: u32, cols: u32, words: u32, threads: u32 } // words and threads of a row
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> codes: array<u32>;        // [rows, words]
@group(0) @binding(2) var<storage, read> theta: array<f32>;        // [rows, PARAMETERS]
@group(0) @binding(3) var<storage, read_write> weight: array<f32>; // [rows, cols]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.y * groups.x * 64 + id.x;
  let row = index / p.threads;
  if (row >= p.rows) { return; }
  let levels = levels_of(theta_of(row));
  let first = index % p.threads * EACH;
  for (var i = 0u; i < EACH; i++) {
    let start = (first + i) * DIGITS;
    if (start >= p.cols) { return; }
    let at = (first + i) * BITS;
    let word = row * p.words + at / 32;
    let shift = at % 32;
    var field = codes[word] >> shift;
    if (shift + BITS > 32) { field |= codes[word + 1] << (32 - shift); }
    field &= (1u << BITS) - 1;
    for (var digit = 0u; digit < min(DIGITS, p.cols - start); digit++) {
      weight[row * p.cols + start + digit] = level(levels, field % COUNT);
      field /= COUNT;
    }
  }
}
