// place[i] = probability[i] · (k - 1) + size - k, with k values in the columns that are not excluded: the
// place of their quantile where the others count as zeros, which come first.
//
// Reference: tests/gpu/kernels/reduce/quantile_test.ts.

struct Params { rows: u32, cols: u32, count: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> excluded: array<u32>;    // [cols]
@group(0) @binding(2) var<storage, read> probability: array<f32>; // [count]
@group(0) @binding(3) var<storage, read_write> place: array<f32>; // [count]

@compute @workgroup_size(128)
fn main(@builtin(local_invocation_index) lane: u32) {
  if (lane >= p.count) { return; }
  var left = 0u;
  for (var col = 0u; col < p.cols; col++) { left += select(0u, p.rows, excluded[col] == 0); }
  let zeros = p.rows * p.cols - left;
  place[lane] = f32(zeros) + probability[lane] * f32(max(left, 1u) - 1);
}
