// The words of tiles in the order in which products read them: of each row of tiles the first four words of
// all tiles, then the next four, so that adjacent threads with a tile each read adjacent places.
//
//   out[below, q, beside] = stream[below, beside, q]
//
// Reference: tests/codecs/trellis/products_test.ts.

override QUADS: u32 = 4; // vec4s of a tile

struct Params { below: u32, beside: u32 } // tiles
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> stream: array<vec4u>;    // [below, beside, QUADS]
@group(0) @binding(2) var<storage, read_write> out: array<vec4u>; // [below, QUADS, beside]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.y * groups.x * 64 + id.x;
  let row = index / (QUADS * p.beside);
  if (row >= p.below) { return; }
  let q = index / p.beside % QUADS;
  out[index] = stream[(row * p.beside + index % p.beside) * QUADS + q];
}
