// weight[r, c] = table[state, v] · scale[r], the dequantized value of a trellis layer.
//
// State t of a tile is the STATE_BITS bits of its ring of 32 · WORDS bits that end with those of step t:
//
//   start = (t + 1) · STEP_BITS - STATE_BITS   (mod 32 · WORDS), bit i being bit 31 - i % 32 of word i / 32
//
// Host and GPU are bit-identical: each value is one product, rounded to f32. A thread computes the weights
// of one step. Reference: dequantizeTrellisHost() in codecs/trellis/store.ts.

override STATE_BITS: u32 = 12;
override STEP_BITS: u32 = 2;
override STEP_WEIGHTS: u32 = 1;
override WORDS: u32 = 16;       // of a tile
override ORDERED: bool = false; // places are those of `order`

struct Params { rows: u32, cols: u32, beside: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> stream: array<u32>;       // [tiles below, beside, WORDS]
@group(0) @binding(2) var<storage, read> scales: array<f32>;       // [rows]
@group(0) @binding(3) var<storage, read> table: array<f32>;        // [2^STATE_BITS, STEP_WEIGHTS]
@group(0) @binding(4) var<storage, read> order: array<u32>;        // [cols]: the column of each place
@group(0) @binding(5) var<storage, read_write> weight: array<f32>; // [rows, cols]

@compute @workgroup_size(16, 4)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let row = id.y;
  let place = id.x * STEP_WEIGHTS;
  if (row >= p.rows || place >= p.cols) { return; }
  let first = (row / 16 * p.beside + place / 16) * WORDS;
  let step = (row % 16 * 16 + place % 16) / STEP_WEIGHTS;
  let start = ((step + 1) * STEP_BITS + 32 * WORDS - STATE_BITS) % (32 * WORDS);
  let shift = start % 32;
  var window = stream[first + start / 32] << shift;
  if (shift > 0) { window |= stream[first + (start / 32 + 1) % WORDS] >> (32 - shift); }
  let state = window >> (32 - STATE_BITS);
  for (var v = 0u; v < min(STEP_WEIGHTS, p.cols - place); v++) {
    var col = place + v;
    if (ORDERED) { col = order[col]; }
    weight[row * p.cols + col] = table[state * STEP_WEIGHTS + v] * scales[row];
  }
}
