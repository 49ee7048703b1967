// Puts codes in another order: place c of a row gets the code at place[c].
//
// A thread writes the codes of 32 columns. Reference: tests/codecs/grid/gather_codes_test.ts.

override BITS: u32 = 2;

struct Params { rows: u32, cols: u32, words: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> codes: array<u32>;          // [rows, words, BITS]
@group(0) @binding(2) var<storage, read> place: array<u32>;          // [cols]
@group(0) @binding(3) var<storage, read_write> gathered: array<u32>; // [rows, words, BITS]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.y * groups.x * 64 + id.x;
  let row = index / p.words;
  if (row >= p.rows) { return; }
  let first = index % p.words * 32;
  var out: array<u32, 8>;
  for (var i = 0u; i < BITS; i++) { out[i] = 0; }
  for (var i = 0u; i < min(32u, p.cols - first); i++) {
    let source = place[first + i];
    let start = (row * p.words + source / 32) * BITS;
    let at = source % 32 * BITS;
    var code = codes[start + at / 32] >> (at % 32);
    if (at % 32 + BITS > 32) { code |= codes[start + at / 32 + 1] << (32 - at % 32); }
    code &= (1u << BITS) - 1;
    let end = i * BITS;
    out[end / 32] |= code << (end % 32);
    if (end % 32 + BITS > 32) { out[end / 32 + 1] |= code >> (32 - end % 32); }
  }
  for (var i = 0u; i < BITS; i++) { gathered[index * BITS + i] = out[i]; }
}
