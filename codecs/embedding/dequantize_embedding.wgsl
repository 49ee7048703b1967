// table[r, c] = the number in row r and column c of a quantized embedding; see embedding_value.wgsl, which
// stands before this text. A thread computes one value.
//
// Reference: tests/codecs/embedding/dequantize_embedding_test.ts.

struct Params { rows: u32, cols: u32, row_bytes: u32, groups: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> codes: array<u32>;       // [rows, row_bytes], bytes
@group(0) @binding(2) var<storage, read> scales: array<u32>;      // [rows, groups], f16
@group(0) @binding(3) var<storage, read> zeros: array<u32>;       // [rows, groups], f16, for ZEROS
@group(0) @binding(4) var<storage, read_write> table: array<f32>; // [rows, cols]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.y * groups.x * 64 + id.x;
  let row = index / p.cols;
  if (row >= p.rows) { return; }
  table[index] = value_at(row, index % p.cols);
}
