// The orthonormal Haar transform of pairs in place: (a, b) becomes ((a + b) / √2, (a - b) / √2). Pairs are
// neighbouring columns of a matrix, or with BY_COLUMNS neighbouring rows. It is its own inverse.
//
// Reference: tests/codecs/haar/search_test.ts.

override BY_COLUMNS: bool = false;

struct Params { rows: u32, cols: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> matrix: array<f32>; // [rows, cols]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64 + id.x;
  if (i >= p.rows * p.cols / 2) { return; }
  var at = 2 * i;
  var step = 1u;
  if (BY_COLUMNS) {
    at = i / p.cols * 2 * p.cols + i % p.cols;
    step = p.cols;
  }
  let a = matrix[at];
  let b = matrix[at + step];
  matrix[at] = (a + b) * 0.70710677f;
  matrix[at + step] = (a - b) * 0.70710677f;
}
