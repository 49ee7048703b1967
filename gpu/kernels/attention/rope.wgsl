// Rotary position embedding, in place: rotates entries i and i + half of each head by the angle of
// (position, i).
//
//   x[i]        = x[i] · cos - x[i + half] · sin
//   x[i + half] = x[i + half] · cos + x[i] · sin
//
// The lookup table of cos and sin is computed on the host, as WGSL allows sin an error of 2^-11.
// Source: RoFormer, arXiv:2104.09864, in the half-split form of transformers.
// Reference: tests/reference/decoder.ts.

struct Params { tokens: u32, heads: u32, half: u32, length: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> table: array<vec2f>;       // [length, half], (cos, sin)
@group(0) @binding(2) var<storage, read_write> x: array<f32>;       // [tokens, heads, 2 · half]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let per_token = p.heads * p.half;
  let token = id.y;
  if (id.x >= per_token) { return; }
  let i = id.x % p.half;
  let at = token * per_token * 2 + id.x / p.half * p.half * 2 + i;
  let turn = table[token % p.length * p.half + i];
  let a = x[at];
  let b = x[at + p.half];
  x[at] = a * turn.x - b * turn.y;
  x[at + p.half] = b * turn.x + a * turn.y;
}
