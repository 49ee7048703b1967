// The bits of a packed linear layer in the order in which the product kernels read them:
//
//   out[tile, unit, plane, row, word] = the bits at 32 positions of one row
//
// Position i of a unit of 128 holds column order[i]. A thread computes one word. Padding rows and
// positions get zeros.
//
// Reference: tests/codecs/billm/tensors_test.ts.

override PLANES: u32 = 2; // planes of bits

struct Params { rows: u32, cols: u32, words: u32, units: u32, size: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> bits: array<u32>;      // [PLANES, rows, words]
@group(0) @binding(2) var<storage, read> order: array<u32>;     // [units, 128]
@group(0) @binding(3) var<storage, read_write> out: array<u32>; // [size], size = tiles * units * PLANES * 128

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.y * groups.x * 64 + id.x;
  if (index >= p.size) { return; }
  let word = index & 3;
  let lane = (index >> 2) & 31;
  let rest = index >> 7;
  let plane = rest % PLANES;
  let unit = rest / PLANES % p.units;
  let row = rest / (PLANES * p.units) * 32 + lane;
  var found = 0u;
  if (row < p.rows) {
    let start = (plane * p.rows + row) * p.words;
    for (var i = 0u; i < 32; i++) {
      let col = order[unit * 128 + word * 32 + i] & 0x7fffffff; // bit 31 marks salient columns
      if (col < p.cols) { found |= ((bits[start + (col >> 5)] >> (col & 31)) & 1) << i; }
    }
  }
  out[index] = found;
}
