// Marks the weights whose saliency is above a threshold, a bit for each.
//
// A thread computes one word, 32 columns. Reference: tests/codecs/grid/mark_salient_test.ts.

struct Params { rows: u32, cols: u32, words: u32, first_word: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> saliency: array<f32>;   // [rows, cols]
@group(0) @binding(2) var<storage, read> threshold: array<f32>;  // [1]
@group(0) @binding(3) var<storage, read_write> mask: array<u32>; // [rows, words], from first_word on

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.y * groups.x * 64 + id.x;
  let words = (p.cols + 31) / 32;
  let row = index / words;
  if (row >= p.rows) { return; }
  let first = index % words * 32;
  let least = threshold[0];
  var bits = 0u;
  for (var i = 0u; i < min(32u, p.cols - first); i++) {
    bits |= u32(abs(saliency[row * p.cols + first + i]) > least) << i;
  }
  mask[row * p.words + p.first_word + index % words] = bits;
}
