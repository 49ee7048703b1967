// Rotates the queries of new tokens in place, and appends their rotated keys and their values to a KV
// cache:
//
//   x[a]  = x[a] · cos - x[b] · sin
//   x[b]  = x[b] · cos + x[a] · sin                              (ROTATE)
//
// Pair i is (a, b) = (i, i + pairs), or (2 i, 2 i + 1) if INTERLEAVED; entries from 2 · pairs on stay.
//
// A thread rotates two entries of the queries, or writes four of the keys or of the values. Heads are
// padded with zeros to whole vec4s. HALF packs two f16 in a word; values beyond the range of f16
// saturate.
//
// Reference: tests/gpu/kernels/attention/append_cache_test.ts.

override ROTATE: bool = false;
override INTERLEAVED: bool = false;
override HALF: bool = false;

struct Params { start: u32, heads: u32, key_value_heads: u32, head_dim: u32, pairs: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> table: array<vec2f>;      // [positions, pairs], (cos, sin)
@group(0) @binding(2) var<storage, read_write> q: array<f32>;      // [tokens, heads, head_dim]
@group(0) @binding(3) var<storage, read> k: array<f32>;            // [tokens, key_value_heads, head_dim]
@group(0) @binding(4) var<storage, read> v: array<f32>;            // [tokens, key_value_heads, head_dim]
@group(0) @binding(5) var<storage, read_write> keys: array<u32>;   // [capacity, key_value_heads, padded head_dim]
@group(0) @binding(6) var<storage, read_write> values: array<u32>; // [capacity, key_value_heads, padded head_dim]

fn turn_of(position: u32, i: u32) -> vec2f {
  return table[position * p.pairs + i];
}

// Entry i of the key head at `at`.
fn key(at: u32, i: u32, position: u32) -> f32 {
  if (i >= p.head_dim) { return 0.0; }
  if (!ROTATE || i >= 2u * p.pairs) { return k[at + i]; }
  let distance = select(p.pairs, 1u, INTERLEAVED);
  let turn = turn_of(position, select(i % p.pairs, i >> 1u, INTERLEAVED));
  if (select(i < p.pairs, (i & 1u) == 0u, INTERLEAVED)) {
    return k[at + i] * turn.x - k[at + i + distance] * turn.y;
  }
  return k[at + i] * turn.x + k[at + i - distance] * turn.y;
}

fn value(at: u32, i: u32) -> f32 {
  if (i >= p.head_dim) { return 0.0; }
  return v[at + i];
}

fn narrow(a: f32, b: f32) -> u32 {
  return pack2x16float(clamp(vec2f(a, b), vec2f(-65504.0), vec2f(65504.0)));
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let token = id.y;
  let position = p.start + token;
  var work = id.x;
  if (ROTATE) {
    if (work < p.heads * p.pairs) {
      let i = work % p.pairs;
      let head = (token * p.heads + work / p.pairs) * p.head_dim;
      let first = head + select(i, 2u * i, INTERLEAVED);
      let second = first + select(p.pairs, 1u, INTERLEAVED);
      let turn = turn_of(position, i);
      let a = q[first];
      let b = q[second];
      q[first] = a * turn.x - b * turn.y;
      q[second] = b * turn.x + a * turn.y;
      return;
    }
    work -= p.heads * p.pairs;
  }
  let vectors = (p.head_dim + 3u) >> 2u;
  let per_token = p.key_value_heads * vectors;
  if (work >= 2u * per_token) { return; }
  let is_key = work < per_token;
  if (!is_key) { work -= per_token; }
  let at = (token * p.key_value_heads + work / vectors) * p.head_dim;
  let i = work % vectors * 4u;
  let place = position * per_token + work;
  var four: vec4f;
  if (is_key) {
    four = vec4f(key(at, i, position), key(at, i + 1u, position), key(at, i + 2u, position), key(at, i + 3u, position));
  } else {
    four = vec4f(value(at, i), value(at, i + 1u), value(at, i + 2u), value(at, i + 3u));
  }
  if (HALF) {
    let words = vec2u(narrow(four.x, four.y), narrow(four.z, four.w));
    for (var w = 0u; w < 2u; w++) {
      if (is_key) { keys[place * 2u + w] = words[w]; } else { values[place * 2u + w] = words[w]; }
    }
  } else {
    let words = bitcast<vec4u>(four);
    for (var w = 0u; w < 4u; w++) {
      if (is_key) { keys[place * 4u + w] = words[w]; } else { values[place * 4u + w] = words[w]; }
    }
  }
}
