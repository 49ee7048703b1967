// weight[r, c] = the level of the code of column c, of the levels of row r, for some rows from `first` on;
// the codes are in the layout of products. Bit-identical to dequantize_levels.wgsl.
//
// A thread computes one weight, so that adjacent threads store to adjacent places.
// levels_source.ts provides levels_of() and level().
//
// Reference: dequantizeLevelsHost() in codecs/levels/store.ts.

override WIDTH: u32 = 3; // bits of a code

struct Params { first: u32, rows: u32, cols: u32, chunks: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> codes: array<u32>;             // [rows, chunks, WIDTH]
@group(0) @binding(2) var<storage, read> theta: array<f32>;             // [rows, PARAMETERS]
@group(0) @binding(3) var<storage, read_write> weight: array<f32>;      // [rows, cols], from row `first` on

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.y * groups.x * 256 + id.x;
  let local_row = index / p.cols;
  if (local_row >= p.rows) { return; }
  let row = p.first + local_row;
  let col = index % p.cols;
  let at = col % 32 * WIDTH;
  let word = (row * p.chunks + col / 32) * WIDTH + at / 32;
  let shift = at % 32;
  var code = codes[word] >> shift;
  if (shift + WIDTH > 32) { code |= codes[word + 1] << (32 - shift); }
  weight[index] = level(levels_of(theta_of(row)), code & ((1u << WIDTH) - 1));
}
