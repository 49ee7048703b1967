// order[k] = the column with the k-th largest sum of parts; ties keep the order of the columns.
//
// One workgroup: several threads share the parts of a column, and count the columns before it.
// Reference: tests/reference/billm.ts.

override LANES: u32 = 256; // at least COLS

struct Params { parts: u32, cols: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> part: array<f32>;        // [parts, cols]
@group(0) @binding(2) var<storage, read_write> order: array<u32>; // [cols]

const COLS = 256u;
var<workgroup> sums: array<f32, LANES>;
var<workgroup> totals: array<f32, COLS>;
var<workgroup> ranks: array<atomic<u32>, COLS>;

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32) {
  let slices = LANES / p.cols;
  let slice = lane / p.cols;
  let col = lane % p.cols;
  var sum = 0.0;
  if (slice < slices) {
    var i = slice;
    let step = slices * p.cols;
    for (; i + 3 * slices < p.parts; i += 4 * slices) {
      let at = i * p.cols + col;
      sum += (part[at] + part[at + step]) + (part[at + 2 * step] + part[at + 3 * step]);
    }
    for (; i < p.parts; i += slices) { sum += part[i * p.cols + col]; }
  }
  sums[lane] = sum;
  workgroupBarrier();
  if (slice == 0) {
    for (var other = 1u; other < slices; other++) { sum += sums[other * p.cols + col]; }
    totals[col] = sum;
  }
  workgroupBarrier();
  if (slice < slices) {
    let own = totals[col];
    var rank = 0u;
    for (var other = slice; other < p.cols; other += slices) {
      let s = totals[other];
      rank += u32(s > own || (s == own && other < col));
    }
    atomicAdd(&ranks[col], rank);
  }
  workgroupBarrier();
  if (slice == 0) { order[atomicLoad(&ranks[col])] = col; }
}
