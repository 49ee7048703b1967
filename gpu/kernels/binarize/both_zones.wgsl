// The zones of all columns from those of ordinary and of salient ones: zones |= more.

@group(0) @binding(0) var<uniform> size: u32;
@group(0) @binding(1) var<storage, read> zones: array<u32>;
@group(0) @binding(2) var<storage, read> more: array<u32>;
@group(0) @binding(3) var<storage, read_write> both: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64 + id.x;
  if (i < size) { both[i] = zones[i] | more[i]; }
}
