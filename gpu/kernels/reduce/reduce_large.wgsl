// Sums and maxima as in reduce.wgsl for large workgroups, with three barriers for any number of threads.
// The order of summation differs.

override LANES: u32 = 256; // a multiple of 16

var<workgroup> partials: array<f32, LANES>;

fn sum_over_lanes(part: f32, lane: u32) -> f32 {
  partials[lane] = part;
  workgroupBarrier();
  if (lane < 16) {
    var some = 0.0;
    for (var i = lane; i < LANES; i += 16) { some += partials[i]; }
    partials[lane] = some; // no other thread reads it before the barrier
  }
  workgroupBarrier();
  var total = 0.0;
  for (var i = 0u; i < 16; i++) { total += partials[i]; }
  workgroupBarrier(); // the next call overwrites partials
  return total;
}

fn max_over_lanes(part: f32, lane: u32) -> f32 {
  partials[lane] = part;
  workgroupBarrier();
  if (lane < 16) {
    var some = partials[lane];
    for (var i = lane; i < LANES; i += 16) { some = max(some, partials[i]); }
    partials[lane] = some;
  }
  workgroupBarrier();
  var top = partials[0];
  for (var i = 1u; i < 16; i++) { top = max(top, partials[i]); }
  workgroupBarrier();
  return top;
}
