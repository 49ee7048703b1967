// weight[r, c] = the dequantized value of a grid layer in the layout of its products, for some rows from
// `first` on; bit-identical to dequantize_grid.wgsl.
//
// A thread computes one weight, so that adjacent threads store to adjacent places.
// Reference: dequantizeGridHost() in codecs/grid/store.ts.

override HAS_SALIENT: bool = false;
override CENTERED: bool = false;  // mean or sign
override ORDERED: bool = false;   // codes are in the order of `order`
override BITS: u32 = 2;

struct Params { first: u32, rows: u32, cols: u32, chunks: u32, fits: u32, fit_chunks: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> codes: array<u32>;          // [rows, chunks, BITS]
@group(0) @binding(2) var<storage, read> fits: array<u32>;           // [rows, fits]: scale; zero or center, f16
@group(0) @binding(3) var<storage, read> marks: array<vec2u>;        // [rows, chunks]: bits; the first code
@group(0) @binding(4) var<storage, read> salient_codes: array<u32>;  // bytes
@group(0) @binding(5) var<storage, read> order: array<u32>;          // [cols]: the column of each place
@group(0) @binding(6) var<storage, read_write> weight: array<f32>;   // [rows, cols], from row `first` on

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.y * groups.x * 256 + id.x;
  let local_row = index / p.cols;
  if (local_row >= p.rows) { return; }
  let row = p.first + local_row;
  let place = index % p.cols;
  let chunk = row * p.chunks + place / 32;
  let i = place % 32;
  let at = i * BITS;
  let word = chunk * BITS + at / 32;
  let shift = at % 32;
  var code = codes[word] >> shift;
  if (shift + BITS > 32) { code |= codes[word + 1] << (32 - shift); }
  code &= (1u << BITS) - 1;
  let fit = unpack2x16float(fits[row * p.fits + place / 32 / p.fit_chunks]);
  var value: f32;
  if (CENTERED) { value = fit.y + select(-fit.x, fit.x, code == 1); } else { value = fit.x * (f32(code) - fit.y); }
  if (HAS_SALIENT) {
    let marked = marks[chunk];
    if (((marked.x >> i) & 1) == 1) {
      let byte = marked.y + countOneBits(marked.x & ((1u << i) - 1));
      let salient_fit = unpack2x16float(fits[row * p.fits + p.fits - 1]);
      value = salient_fit.x * (f32(extractBits(salient_codes[byte / 4], 8 * (byte % 4), 8u)) - salient_fit.y);
    }
  }
  var col = place;
  if (ORDERED) { col = order[place]; }
  weight[local_row * p.cols + col] = value;
}
