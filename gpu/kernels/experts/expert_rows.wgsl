// The input rows of some pairs: out[i] = x of pair order[first + i]. A row of x serves a token, or, if EACH,
// a pair. With OTHER, `other` belongs to a model that routes tokens in its own way: the row of the pair of
// that token and the same expert there is wanted, and that of x if there is none.
//
// Reference: tests/gpu/kernels/experts/expert_rows_test.ts.

override EACH: bool;
override OTHER: bool;

struct Params { rows: u32, cols: u32, k: u32, first: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;             // [tokens, cols], or [pairs, cols]
@group(0) @binding(2) var<storage, read> order: array<u32>;         // [pairs]
@group(0) @binding(3) var<storage, read> routing: array<f32>;       // [tokens, 2 k]
@group(0) @binding(4) var<storage, read> other: array<f32>;         // as x
@group(0) @binding(5) var<storage, read> other_routing: array<f32>; // as routing
@group(0) @binding(6) var<storage, read_write> out: array<f32>;     // [rows, cols]

@compute @workgroup_size(16, 4)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) id: vec3u) {
  let row = group.x * 4u + id.y;
  if (row >= p.rows) { return; }
  let pair = order[p.first + row];
  let token = pair / p.k;
  var source_row = select(token, pair, EACH);
  var is_other = OTHER;
  if (OTHER && EACH) {
    let expert = routing[2u * token * p.k + pair % p.k];
    is_other = false;
    for (var slot = 0u; slot < p.k; slot++) {
      if (other_routing[2u * token * p.k + slot] != expert) { continue; }
      is_other = true;
      source_row = token * p.k + slot;
    }
  }
  for (var col = group.y * 64u + id.x; col < min(p.cols, group.y * 64u + 64u); col += 16u) {
    var value: f32;
    if (is_other) { value = other[source_row * p.cols + col]; } else { value = x[source_row * p.cols + col]; }
    out[row * p.cols + col] = value;
  }
}
