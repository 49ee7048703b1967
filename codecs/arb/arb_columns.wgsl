// The scales of columns from the sums of arb_pass.wgsl: one plane, both zones. A zone without weights in a
// column keeps its scale, 1 in the beginning.
//
// COLS columns of a workgroup, with SLICES threads each.
// Reference: tests/reference/arb.ts.

override PLANE: u32 = 0;
override FIRST: bool = false;
override COLS: u32 = 8;
override SLICES: u32 = 32;
override THREADS: u32 = COLS * SLICES;

struct Params { parts: u32, cols: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> part: array<vec4f>;             // [parts, cols]
@group(0) @binding(2) var<storage, read> salient: array<u32>;            // [cols], 0 or 1
@group(0) @binding(3) var<storage, read_write> col_scales: array<vec4f>; // [cols]

var<workgroup> sums: array<vec4f, THREADS>;

@compute @workgroup_size(COLS, SLICES)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(local_invocation_id) local: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let col = group.x * COLS + local.x;
  var sum = vec4f(0.0);
  let is_salient = salient[min(col, p.cols - 1)] == 1;
  let works = col < p.cols && (PLANE == 0 || is_salient);
  if (works) {
    for (var i = local.y; i < p.parts; i += SLICES) { sum += part[i * p.cols + col]; }
  }
  sums[lane] = sum;
  workgroupBarrier();
  if (!works || local.y > 0) { return; }
  for (var i = 1u; i < SLICES; i++) { sum += sums[i * COLS + local.x]; }
  var own = vec4f(1.0);
  if (!FIRST || PLANE == 1) { own = col_scales[col]; }
  let at = select(vec2u(0, 1), vec2u(PLANE, 2 + PLANE), is_salient);
  if (sum.y > 0.0) { own[at.x] = sum.x / sum.y; }
  if (sum.w > 0.0) { own[at.y] = sum.z / sum.w; }
  col_scales[col] = own;
}
