// A grid from the smallest to the largest weight of a row wastes its values on outliers. Clips them.
import { defineStage, uniform, z } from "../../mod.ts";

/** One workgroup a row: the root mean square of its weights, then their bounds. */
const source = `
struct Params { cols: u32, factor: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> weight: array<f32>;
var<workgroup> sums: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32) {
  // A number of workgroups above 65,535 is split over x and y.
  let row = group.y * groups.x + group.x;
  if (row >= arrayLength(&weight) / params.cols) { return; }
  var sum = 0.0;
  for (var i = lane; i < params.cols; i += 64u) {
    let w = weight[row * params.cols + i];
    sum += w * w;
  }
  sums[lane] = sum;
  for (var half = 32u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane < half) { sums[lane] += sums[lane + half]; }
  }
  workgroupBarrier();
  let bound = params.factor * sqrt(sums[0] / f32(params.cols));
  for (var i = lane; i < params.cols; i += 64u) {
    let at = row * params.cols + i;
    weight[at] = clamp(weight[at], -bound, bound);
  }
}`;

export default defineStage({
	name: "clip-outliers",
	scope: "linear",
	summary: "Bound the weights of each row",
	options: z.strictObject({
		factor: z.number().min(1).max(10).default(3).describe("Bound, in root mean squares of the row"),
	}),
	needs: ["model-files"],
	gives: [],

	async run({ gpu, linear: { weight, rows, cols } }, { factor }) {
		const kernel = await gpu.kernel({ name: "clip_outliers", source });
		kernel.dispatch({ params: uniform([cols], [factor]), tensors: [weight], workgroups: rows });
	},
});
