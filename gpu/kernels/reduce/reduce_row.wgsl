// Sums over the LANES threads that share a row, in a workgroup of ROWS rows; every thread gets the result.
// Prepended to the kernels that use it.

override ROWS: u32 = 16;
override LANES: u32 = 8;
override THREADS: u32 = ROWS * LANES;

var<workgroup> shares: array<vec4f, THREADS>;

// The sum over the threads of a row, for each of them.
fn over_row(own: vec4f, lane: u32) -> vec4f {
  if (LANES == 1) { return own; }
  shares[lane] = own;
  workgroupBarrier();
  var sum = vec4f(0.0);
  let first = lane / LANES * LANES;
  for (var i = first; i < first + LANES; i++) { sum += shares[i]; }
  workgroupBarrier(); // the next call overwrites the shares
  return sum;
}
