// weight[r, c] = the dequantized value of a packed linear layer.
//
//   salient column   ((mean ± scale[0]) ± scale[1]) ...
//   other column     mean[zone] ± scale[zone]
//
// summed in this order, in f32, so that host and GPU are bit-identical. A thread computes 32 columns.
// Reference: dequantizeBillm() in codecs/billm/host.ts.

override ZONES: u32 = 2;
override PLANES: u32 = 2; // 0 without salient columns
override SCALES: u32 = 7;

struct Params { rows: u32, cols: u32, words: u32, block_size: u32, blocks: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> bits: array<u32>;         // [planes of bits, rows, words]
@group(0) @binding(2) var<storage, read> scales: array<f32>;       // [rows, blocks, SCALES]
@group(0) @binding(3) var<storage, read> salient: array<u32>;      // [words], bits
@group(0) @binding(4) var<storage, read_write> weight: array<f32>; // [rows, cols]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.y * groups.x * 64 + id.x;
  let row = index / p.words;
  if (row >= p.rows) { return; }
  let word = index % p.words;
  let first = word * 32;
  let plane_stride = p.rows * p.words;
  let at = (row * p.blocks + first / p.block_size) * SCALES;
  let signs = bits[index];
  var zones = 0u;
  if (ZONES == 2) { zones = bits[plane_stride + index]; }
  var marked = 0u;
  if (PLANES > 0) { marked = salient[word]; }
  for (var i = 0u; i < min(32u, p.cols - first); i++) {
    var value: f32;
    if (((marked >> i) & 1u) == 1u) {
      value = scales[at + ZONES * 2];
      for (var plane = 0u; plane < PLANES; plane++) {
        let plus = ((bits[plane * plane_stride + index] >> i) & 1u) == 1u;
        let scale = scales[at + ZONES * 2 + 1 + plane];
        value += select(-scale, scale, plus);
      }
    } else {
      let zone = at + ((zones >> i) & 1u) * 2;
      let scale = scales[zone + 1];
      value = scales[zone] + select(-scale, scale, ((signs >> i) & 1u) == 1u);
    }
    weight[row * p.cols + first + i] = value;
  }
}
