// The codes of a linear layer of levels in the order in which products read them, 32 columns together:
//
//   PLANES: out[plane, row, chunk] = a bit for each column: the sign, then the zone. The levels of zone 0
//           are -a and a; those of zone 1 are -b and b (4 levels) or 0 (3 levels).
//   else:   out[row, chunk, word] = codes of WIDTH bits, least significant bit first
//
// A thread takes 32 columns of a row; columns beyond the last one get zeros.
// Reference: tests/codecs/levels/products_test.ts.

override COUNT: u32 = 4;  // levels
override DIGITS: u32 = 1; // columns of a field
override BITS: u32 = 2;   // of a field
override PLANES: bool = false;
override WIDTH: u32 = 2; // planes, or bits of a code

struct Params { rows: u32, cols: u32, words: u32, chunks: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> codes: array<u32>; // [rows, words]
@group(0) @binding(2) var<storage, read_write> out: array<u32>;

fn code_at(row: u32, col: u32) -> u32 {
  let at = col / DIGITS * BITS;
  let word = row * p.words + at / 32;
  let shift = at % 32;
  var field = codes[word] >> shift;
  if (shift + BITS > 32) { field |= codes[word + 1] << (32 - shift); }
  field &= (1u << BITS) - 1;
  for (var digit = 0u; digit < col % DIGITS; digit++) { field /= COUNT; }
  return field % COUNT;
}

fn sign_and_zone(code: u32) -> vec2u {
  if (COUNT == 2) { return vec2u(code, 0); }
  if (COUNT == 3) { return vec2u(u32(code == 2), u32(code == 1)); }
  return vec2u(code >> 1, u32(code == 0 || code == 3));
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.y * groups.x * 64 + id.x;
  let row = index / p.chunks;
  if (row >= p.rows) { return; }
  let first = index % p.chunks * 32;
  var found = vec3u();
  for (var i = 0u; i < min(32u, p.cols - first); i++) {
    let code = code_at(row, first + i);
    if (PLANES) {
      found |= vec3u(sign_and_zone(code), 0) << vec3u(i);
    } else {
      let at = i * WIDTH;
      let low = code << (at & 31);
      var high = 0u;
      if ((at & 31) + WIDTH > 32) { high = code >> (32 - (at & 31)); }
      if (at < 32) { found |= vec3u(low, high, 0); } else if (at < 64) { found |= vec3u(0, low, high); } else { found.z |= low; }
    }
  }
  for (var k = 0u; k < WIDTH; k++) {
    var at = index * WIDTH + k;
    if (PLANES) { at = k * p.rows * p.chunks + index; }
    out[at] = found[k];
  }
}
