// Packs the codes of a linear layer, one u32 each, into fields of BITS bits, and puts them in the order of
// columns: column c of a row has the code at place[c].
//
// A thread writes a word, and computes each field that is in part in it.
//
// Reference: tests/codecs/levels/pack_levels_test.ts.

override COUNT: u32 = 4;  // levels
override DIGITS: u32 = 1; // columns of a field
override BITS: u32 = 2;   // of a field

struct Params { rows: u32, cols: u32, words: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> codes: array<u32>;        // [rows, cols]
@group(0) @binding(2) var<storage, read> place: array<u32>;        // [cols]
@group(0) @binding(3) var<storage, read_write> packed: array<u32>; // [rows, words]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.y * groups.x * 64 + id.x;
  let row = index / p.words;
  if (row >= p.rows) { return; }
  let begin = index % p.words * 32;
  var word = 0u;
  for (var field = begin / BITS; field * BITS < begin + 32; field++) {
    let start = field * DIGITS;
    if (start >= p.cols) { break; }
    var value = 0u;
    var power = 1u;
    for (var digit = 0u; digit < min(DIGITS, p.cols - start); digit++) {
      value += codes[row * p.cols + place[start + digit]] * power;
      power *= COUNT;
    }
    let at = field * BITS;
    if (at >= begin) { word |= value << (at - begin); } else { word |= value >> (begin - at); }
  }
  packed[index] = word;
}
