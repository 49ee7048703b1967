// others[c] = 1 - salient[c]

@group(0) @binding(0) var<uniform> cols: u32;
@group(0) @binding(1) var<storage, read> salient: array<u32>;
@group(0) @binding(2) var<storage, read_write> others: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x < cols) { others[id.x] = 1 - salient[id.x]; }
}
