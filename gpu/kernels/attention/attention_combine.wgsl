// Merges the partial results of attention to several ranges of keys:
//
//   out = Σ_s e^(top_s - top) · part_s / Σ_s e^(top_s - top) · sum_s        top = max_s top_s
//
// part_s is Σ e^(score - top_s) · value over the keys of range s, sum_s is Σ e^(score - top_s). One
// workgroup per head of a query. A range without keys has sum_s = 0 and a top_s far below all others.
//
// Source: FlashDecoding, a part of FlashAttention, arXiv:2205.14135.
// Reference: tests/reference/attention.ts.

struct Params { heads: u32, head_dim: u32, splits: u32, stride: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> parts: array<f32>; // [tokens, heads, splits, stride], top and sum last
@group(0) @binding(2) var<storage, read_write> out: array<f32>; // [tokens, heads, head_dim]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let place = group.y * p.heads + group.x;
  let start = place * p.splits * p.stride;
  var top = -3.0e38;
  for (var s = 0u; s < p.splits; s++) { top = max(top, parts[start + (s + 1) * p.stride - 2]); }
  for (var d = lane; d < p.head_dim; d += 64) {
    var total = 0.0;
    var sum = 0.0;
    for (var s = 0u; s < p.splits; s++) {
      let at = start + s * p.stride;
      let factor = exp(parts[at + p.stride - 2] - top);
      total += factor * parts[at + d];
      sum += factor * parts[at + p.stride - 1];
    }
    out[place * p.head_dim + d] = total / sum;
  }
}
