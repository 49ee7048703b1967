// Sums and maxima over the LANES threads of a workgroup; every thread gets the result.
// Prepended to the kernels that use it.

override LANES: u32 = 64; // a power of two

var<workgroup> partials: array<f32, LANES>;

fn sum_over_lanes(part: f32, lane: u32) -> f32 {
  partials[lane] = part;
  workgroupBarrier();
  for (var stride = LANES / 2; stride > 0; stride /= 2) {
    if (lane < stride) { partials[lane] += partials[lane + stride]; }
    workgroupBarrier();
  }
  let total = partials[0];
  workgroupBarrier(); // the next call overwrites partials
  return total;
}

fn max_over_lanes(part: f32, lane: u32) -> f32 {
  partials[lane] = part;
  workgroupBarrier();
  for (var stride = LANES / 2; stride > 0; stride /= 2) {
    if (lane < stride) { partials[lane] = max(partials[lane], partials[lane + stride]); }
    workgroupBarrier();
  }
  let top = partials[0];
  workgroupBarrier();
  return top;
}
