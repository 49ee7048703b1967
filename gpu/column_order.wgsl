// order[k] = the column with the k-th largest sum of parts; equal sums keep the order of the columns.
//
// One workgroup: each thread adds up a column and counts the columns that come before it.
// Reference: tests/reference/billm.ts.

struct Params { parts: u32, cols: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> part: array<f32>;             // [parts, cols]
@group(0) @binding(2) var<storage, read_write> order: array<u32>;      // [cols]

const COLS = 256u;
var<workgroup> sums: array<f32, COLS>;

@compute @workgroup_size(COLS)
fn main(@builtin(local_invocation_index) col: u32) {
  var sum = 0.0;
  if (col < p.cols) {
    for (var i = 0u; i < p.parts; i++) { sum += part[i * p.cols + col]; }
  }
  sums[col] = sum;
  workgroupBarrier();
  if (col >= p.cols) { return; }
  var rank = 0u;
  for (var other = 0u; other < p.cols; other++) {
    let s = sums[other];
    rank += u32(s > sum || (s == sum && other < col));
  }
  order[rank] = col;
}
