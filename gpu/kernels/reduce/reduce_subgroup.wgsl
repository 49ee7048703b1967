// Sums and maxima as in reduce.wgsl for a workgroup that is exactly one subgroup. It has no barriers,
// which are expensive on software adapters.

override LANES: u32 = 16;

fn sum_over_lanes(part: f32, lane: u32) -> f32 { return subgroupAdd(part); }

fn max_over_lanes(part: f32, lane: u32) -> f32 { return subgroupMax(part); }
