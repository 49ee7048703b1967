// Turns each weight of a block into bits and the value that those bits stand for.
//
//   salient column   q = mean + Σ ± scale[plane]        one bit per plane
//   other column     q = mean[zone] ± scale[zone]       one sign bit, one zone bit
//
// with means and scales rounded to f16 as they are stored. error = (w - q) / U_jj is what the columns
// to come must make up for: with FEEDBACK those of the block at once, w_k -= error · U_jk, as GPTQ
// does; those after the block by a matrix product. With NEAREST the bits are those of the nearest of
// the stored values; without, they are the signs seen by the fit and the zones found by the search.
//
// One thread per row: columns follow each other, rows are independent. With FEEDBACK the block lies
// in workgroup memory, [column][row], and each thread touches its own entries only.
//
// Source: BiLLM, arXiv:2402.04291; GPTQ, arXiv:2210.17323. Reference: tests/reference/billm.ts.

override ROWS: u32 = 32;      // threads
override TILE: u32 = 1;       // ROWS · columns with FEEDBACK
override FEEDBACK: bool = false;
override NEAREST: bool = false;
override HAS_FACTOR: bool = false;
override HAS_SALIENT: bool = false;
override ZONES: u32 = 2;
override PLANES: u32 = 2;     // of the salient columns
override SCALES: u32 = 7;     // per row and block: zones' (mean, scale), salient mean, salient scales

struct Params { rows: u32, cols: u32, first: u32, layer_cols: u32, words: u32, block: u32, blocks: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> weight: array<f32>;            // [rows, cols]
@group(0) @binding(2) var<storage, read> salient: array<u32>;           // [cols]
@group(0) @binding(3) var<storage, read> zones: array<u32>;             // [rows, ceil(cols / 32)]
@group(0) @binding(4) var<storage, read> zone_fits: array<f32>;         // [rows, 2 · ZONES]
@group(0) @binding(5) var<storage, read> salient_fit: array<f32>;       // [rows, 2 · PLANES]
@group(0) @binding(6) var<storage, read> factor: array<f32>;            // [layer_cols, layer_cols]
@group(0) @binding(7) var<storage, read_write> quantized: array<f32>;   // [rows, layer_cols]
@group(0) @binding(8) var<storage, read_write> error: array<f32>;       // [rows, cols]
@group(0) @binding(9) var<storage, read_write> bits: array<u32>;        // [planes of bits, rows, words]
@group(0) @binding(10) var<storage, read_write> scales: array<f32>;     // [rows, blocks, SCALES]

var<workgroup> tile: array<f32, TILE>;

// The nearest f16 (ties to even). By integer arithmetic: a driver may take the packing of a f16 and
// its unpacking for nothing at all, and NVIDIA's does.
fn rounded(value: f32) -> f32 {
  let v = clamp(value, -65504.0, 65504.0);
  if (abs(v) < 6.1035156e-5) { return round(v * 16777216.0) / 16777216.0; } // subnormal: steps of 2^-24
  let b = bitcast<u32>(v);
  return bitcast<f32>((b + 0xfffu + ((b >> 13u) & 1u)) & 0xffffe000u);
}

@compute @workgroup_size(ROWS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.x * ROWS + lane;
  if (row >= p.rows) { return; }
  // Unrounded fits decide the bits, rounded ones the values.
  var mean = vec2f(0.0);
  var scale = vec2f(0.0);
  for (var z = 0u; z < ZONES; z++) {
    mean[z] = zone_fits[(row * ZONES + z) * 2];
    scale[z] = zone_fits[(row * ZONES + z) * 2 + 1];
  }
  let stored_mean = vec2f(rounded(mean.x), rounded(mean.y));
  let stored_scale = vec2f(rounded(scale.x), rounded(scale.y));
  var plane_mean = vec4f(0.0);
  var plane_scale = vec4f(0.0);
  var stored_plane = vec4f(0.0);
  var stored_center = 0.0;
  if (HAS_SALIENT) {
    var center = 0.0;
    for (var plane = 0u; plane < PLANES; plane++) {
      plane_mean[plane] = salient_fit[(row * PLANES + plane) * 2];
      plane_scale[plane] = salient_fit[(row * PLANES + plane) * 2 + 1];
      center += plane_mean[plane];
      stored_plane[plane] = rounded(plane_scale[plane]);
    }
    stored_center = rounded(center);
  }
  let scales_at = (row * p.blocks + p.block) * SCALES;
  for (var z = 0u; z < ZONES; z++) {
    scales[scales_at + z * 2] = stored_mean[z];
    scales[scales_at + z * 2 + 1] = stored_scale[z];
  }
  if (HAS_SALIENT) {
    scales[scales_at + ZONES * 2] = stored_center;
    for (var plane = 0u; plane < PLANES; plane++) {
      scales[scales_at + ZONES * 2 + 1 + plane] = stored_plane[plane];
    }
  }
  if (FEEDBACK) {
    for (var col = 0u; col < p.cols; col++) { tile[col * ROWS + lane] = weight[row * p.cols + col]; }
  }

  let words = (p.cols + 31) / 32;
  for (var word = 0u; word < words; word++) {
    var out = vec4u(0);
    let high_bits = zones[row * words + word];
    for (var i = 0u; i < min(32u, p.cols - word * 32); i++) {
      let col = word * 32 + i;
      var w: f32;
      if (FEEDBACK) { w = tile[col * ROWS + lane]; } else { w = weight[row * p.cols + col]; }
      var q: f32;
      if (HAS_SALIENT && salient[col] == 1) {
        var signs = 0u; // bit k is that of plane k
        if (NEAREST) {
          // Sign by sign does not find the nearest sum of three and more.
          var least = 3.4e38;
          for (var code = 0u; code < (1u << PLANES); code++) {
            var value = stored_center;
            for (var plane = 0u; plane < PLANES; plane++) {
              value += select(-stored_plane[plane], stored_plane[plane], ((code >> plane) & 1u) == 1u);
            }
            let off = abs(w - value);
            if (off < least) {
              least = off;
              signs = code;
            }
          }
        } else {
          var r = w;
          for (var plane = 0u; plane < PLANES; plane++) {
            r -= plane_mean[plane];
            let plus = r >= 0.0;
            r -= select(-plane_scale[plane], plane_scale[plane], plus);
            signs |= u32(plus) << plane;
          }
        }
        q = stored_center;
        for (var plane = 0u; plane < PLANES; plane++) {
          let plus = (signs >> plane) & 1u;
          q += select(-stored_plane[plane], stored_plane[plane], plus == 1u);
          out[plane] |= plus << i;
        }
      } else {
        var zone = 0u;
        if (ZONES == 2) { zone = (high_bits >> i) & 1u; }
        var plus = w >= mean[zone];
        if (NEAREST) {
          plus = w >= stored_mean[zone];
          if (ZONES == 2) {
            let plus2 = vec2f(w) >= stored_mean;
            let off = abs(w - stored_mean - select(-stored_scale, stored_scale, plus2));
            zone = u32(off.y < off.x);
            plus = plus2[zone];
          }
        }
        q = stored_mean[zone] + select(-stored_scale[zone], stored_scale[zone], plus);
        out[0] |= u32(plus) << i;
        if (ZONES == 2) { out[1] |= zone << i; }
      }
      quantized[row * p.layer_cols + p.first + col] = q;
      if (HAS_FACTOR) {
        let u_row = (p.first + col) * p.layer_cols + p.first;
        let e = (w - q) / factor[u_row + col];
        error[row * p.cols + col] = e;
        if (FEEDBACK) {
          for (var k = col + 1; k < p.cols; k++) { tile[k * ROWS + lane] -= e * factor[u_row + k]; }
        }
      }
    }
    let at = row * p.words + p.first / 32 + word;
    for (var plane = 0u; plane < max(ZONES, select(1u, PLANES, HAS_SALIENT)); plane++) {
      bits[plane * p.rows * p.words + at] = out[plane];
    }
  }
}
