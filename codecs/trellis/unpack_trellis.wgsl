// weight[r, c] = table[state, v] · scale[r], the dequantized value of a trellis layer in the layout of
// products, for some rows from `first` on; bit-identical to dequantize_trellis.wgsl, which tells what the
// states are.
//
// A workgroup takes a row of tiles and some tiles of it, and keeps the table in workgroup memory. A thread
// computes the weights of a step at a time, so that adjacent threads store to adjacent places.
// Reference: dequantizeTrellisHost() in codecs/trellis/store.ts.

override STATE_BITS: u32 = 12;
override STEP_BITS: u32 = 2;
override STEP_WEIGHTS: u32 = 1;
override WORDS: u32 = 16;        // of a tile
override ORDERED: bool = false;  // places are those of `order`

const THREADS = 256u;
const TILES = 64u;               // of a workgroup

struct Params { first: u32, rows: u32, cols: u32, beside: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> stream: array<u32>;            // [tiles below, WORDS / 4, beside, 4]
@group(0) @binding(2) var<storage, read> scales: array<f32>;            // [rows]
@group(0) @binding(3) var<storage, read> table: array<f32>;             // [2^STATE_BITS, STEP_WEIGHTS]
@group(0) @binding(4) var<storage, read> order: array<u32>;             // [cols]: the column of each place
@group(0) @binding(5) var<storage, read_write> weight: array<f32>;      // [rows, cols], from row `first` on

// The entries as bits: an f32 number, or two f16 numbers, which they are exactly.
var<workgroup> entries: array<u32, 4096>;

fn word_at(tile_row: u32, tile: u32, word: u32) -> u32 {
  return stream[((tile_row * (WORDS / 4) + word / 4) * p.beside + tile) * 4 + word % 4];
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
  for (var i = thread; i < (1u << STATE_BITS); i += THREADS) {
    if (STEP_WEIGHTS == 1) { entries[i] = bitcast<u32>(table[i]); } else { entries[i] = pack2x16float(vec2f(table[2 * i], table[2 * i + 1])); }
  }
  workgroupBarrier();
  let tile_row = p.first / 16 + group.y;
  let first_place = group.x * TILES * 16;
  let end_place = min(first_place + TILES * 16, p.cols);
  for (var place = first_place + thread * STEP_WEIGHTS; place < end_place; place += THREADS * STEP_WEIGHTS) {
    for (var row = max(tile_row * 16, p.first); row < min(tile_row * 16 + 16, p.first + p.rows); row++) {
      let step = (row % 16 * 16 + place % 16) / STEP_WEIGHTS;
      let start = ((step + 1) * STEP_BITS + 32 * WORDS - STATE_BITS) % (32 * WORDS);
      let shift = start % 32;
      let tile = place / 16;
      var window = word_at(tile_row, tile, start / 32) << shift;
      if (shift > 0) { window |= word_at(tile_row, tile, (start / 32 + 1) % WORDS) >> (32 - shift); }
      let entry = entries[window >> (32 - STATE_BITS)];
      let scale = scales[row];
      for (var v = 0u; v < min(STEP_WEIGHTS, p.cols - place); v++) {
        var value = bitcast<f32>(entry);
        if (STEP_WEIGHTS == 2) { value = unpack2x16float(entry)[v]; }
        var col = place + v;
        if (ORDERED) { col = order[col]; }
        weight[(row - p.first) * p.cols + col] = value * scale;
        }
    }
  }
}
