// The means of each column of a and b over the rows of a chunk, and the sums of (a - mean) (b - mean)
// and (b - mean)².
//
// A thread per column and chunk, with two passes: the means matter if they are large.
//
// Reference: tests/gpu/kernels/reduce/channel_moments_test.ts.

struct Params { rows: u32, cols: u32, chunk: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;         // [rows, cols]
@group(0) @binding(2) var<storage, read> b: array<f32>;         // [rows, cols]
@group(0) @binding(3) var<storage, read_write> out: array<f32>; // [chunks, 4, cols]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let col = id.x;
  if (col >= p.cols) { return; }
  let first = id.y * p.chunk;
  let end = min(first + p.chunk, p.rows);
  let count = f32(end - first);
  var mean = vec2f();
  for (var row = first; row < end; row++) {
    mean += vec2f(a[row * p.cols + col], b[row * p.cols + col]);
  }
  mean /= count;
  var products = 0.0;
  var squares = 0.0;
  for (var row = first; row < end; row++) {
    let d = vec2f(a[row * p.cols + col], b[row * p.cols + col]) - mean;
    products += d.x * d.y;
    squares += d.y * d.y;
  }
  let at = 4u * id.y * p.cols + col;
  out[at] = mean.x;
  out[at + p.cols] = mean.y;
  out[at + 2u * p.cols] = products;
  out[at + 3u * p.cols] = squares;
}
