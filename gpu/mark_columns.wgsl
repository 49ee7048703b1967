// salient[order[k]] = k <= best, so that the best + 1 first columns of the order are marked.

@group(0) @binding(0) var<uniform> cols: u32;
@group(0) @binding(1) var<storage, read> order: array<u32>;            // [cols]
@group(0) @binding(2) var<storage, read> best: array<u32>;             // [1]
@group(0) @binding(3) var<storage, read_write> salient: array<u32>;    // [cols]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x < cols) { salient[order[id.x]] = u32(id.x <= best[0]); }
}
