// out[t, i] = x[t, order[i]], or 0 if position i has no column: the activations in the column order of a
// packed weight. A thread computes four.
//
// Reference: tests/codecs/billm/matmul_test.ts.

struct Params { tokens: u32, cols: u32, positions: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;           // [tokens, cols]
@group(0) @binding(2) var<storage, read> order: array<vec4u>;     // [positions / 4]
@group(0) @binding(3) var<storage, read_write> out: array<vec4f>; // [tokens, positions / 4]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let token = id.z * groups.y + id.y;
  if (id.x * 4 >= p.positions || token >= p.tokens) { return; }
  let col = order[id.x] & vec4u(0x7fffffff); // bit 31 marks salient columns
  let start = token * p.cols;
  let found = vec4f(x[start + col.x], x[start + col.y], x[start + col.z], x[start + col.w]);
  out[token * (p.positions >> 2) + id.x] = select(vec4f(0.0), found, col < vec4u(p.cols));
}
