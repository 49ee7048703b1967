// Rotary position embedding, in place: rotates pairs of entries of each head by the angle of (position,
// pair). The first 2 · pairs entries of a head rotate; the others stay.
//
//   x[a]  = x[a] · cos - x[b] · sin
//   x[b]  = x[b] · cos + x[a] · sin
//
// Pair i is (a, b) = (i, i + pairs), or neighbours (2 i, 2 i + 1) if INTERLEAVED.
//
// The lookup table of cos and sin is computed on the host, as WGSL allows sin an error of 2^-11.
// Source: RoFormer, arXiv:2104.09864; the half-split form is that of GPT-NeoX and transformers.
// Reference: tests/reference/decoder.ts.

override INTERLEAVED: bool = false;

struct Params { tokens: u32, heads: u32, pairs: u32, length: u32, head_dim: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> table: array<vec2f>; // [length, pairs], (cos, sin)
@group(0) @binding(2) var<storage, read_write> x: array<f32>; // [tokens, heads, head_dim]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let token = id.y;
  if (id.x >= p.heads * p.pairs) { return; }
  let i = id.x % p.pairs;
  let head = (token * p.heads + id.x / p.pairs) * p.head_dim;
  let first = head + select(i, 2u * i, INTERLEAVED);
  let second = first + select(p.pairs, 1u, INTERLEAVED);
  let turn = table[token % p.length * p.pairs + i];
  let a = x[first];
  let b = x[second];
  x[first] = a * turn.x - b * turn.y;
  x[second] = b * turn.x + a * turn.y;
}
