// Fits mean ± scale to a group of the entries of each row, PLANES times in a row: each plane fits
// what the planes before it left over.
//
//   mean = Σ r / n      scale = Σ |r - mean| / n      r ← r - (mean + scale · sign(r - mean))
//
// ZONE says which entries: 0 the salient columns, 1 the low zone, 2 the high zone (of the others).
// An empty group gets zeros. One thread per row. sign(0) is +1: one bit has no zero.
// Source: BiLLM, arXiv:2402.04291. Reference: tests/reference/billm.ts.

override PLANES: u32 = 1; // at most 4
override ZONE: u32 = 0;

struct Params { rows: u32, cols: u32, out_start: u32, out_stride: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> weight: array<f32>;           // [rows, cols]
@group(0) @binding(2) var<storage, read> salient: array<u32>;          // [cols]
@group(0) @binding(3) var<storage, read> zones: array<u32>;            // [rows, ceil(cols / 32)], bits
@group(0) @binding(4) var<storage, read_write> fit: array<f32>;        // [rows, out_stride]: mean, scale, ...

fn in_group(row: u32, col: u32) -> bool {
  let is_salient = salient[col] == 1;
  if (ZONE == 0) { return is_salient; }
  let high = ((zones[row * ((p.cols + 31) / 32) + col / 32] >> (col % 32)) & 1u) == 1u;
  return !is_salient && high == (ZONE == 2);
}

@compute @workgroup_size(32)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let row = id.x;
  if (row >= p.rows) { return; }
  var means = vec4f(0.0);
  var scales = vec4f(0.0);
  for (var plane = 0u; plane < PLANES; plane++) {
    var mean = 0.0;
    var scale = 0.0;
    for (var sweep = 0u; sweep < 2; sweep++) {
      var n = 0.0;
      var total = 0.0;
      for (var col = 0u; col < p.cols; col++) {
        if (!in_group(row, col)) { continue; }
        var r = weight[row * p.cols + col];
        for (var before = 0u; before < plane; before++) {
          r -= means[before];
          r -= select(-scales[before], scales[before], r >= 0.0);
        }
        n += 1.0;
        total += select(r, abs(r - mean), sweep == 1);
      }
      let average = total / max(n, 1.0);
      if (sweep == 0) { mean = average; } else { scale = average; }
    }
    means[plane] = mean;
    scales[plane] = scale;
  }
  for (var plane = 0u; plane < PLANES; plane++) {
    fit[row * p.out_stride + p.out_start + plane * 2] = means[plane];
    fit[row * p.out_stride + p.out_start + plane * 2 + 1] = scales[plane];
  }
}
