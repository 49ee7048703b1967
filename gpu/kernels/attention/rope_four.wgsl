// The same as rope.wgsl for four pairs (i, i + pairs) at a time; `pairs` and the heads' sizes are multiples of
// four.

struct Params { tokens: u32, heads: u32, pairs: u32, length: u32, head_dim: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> table: array<vec4f>; // [length, pairs / 2], (cos, sin) of two pairs
@group(0) @binding(2) var<storage, read_write> x: array<vec4f>; // [tokens, heads, head_dim / 4]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let token = id.y;
  let fours = p.pairs / 4;
  if (id.x >= p.heads * fours) { return; }
  let i = id.x % fours;
  let first = (token * p.heads + id.x / fours) * (p.head_dim / 4) + i;
  let second = first + fours;
  let at = token % p.length * (p.pairs / 2) + 2 * i;
  let low = table[at];
  let high = table[at + 1];
  let cos = vec4f(low.xz, high.xz);
  let sin = vec4f(low.yw, high.yw);
  let a = x[first];
  let b = x[second];
  x[first] = a * cos - b * sin;
  x[second] = b * cos + a * sin;
}
