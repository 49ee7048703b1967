// The same as reduce.wgsl for a workgroup that is exactly one subgroup: no barriers, which cost much
// where the CPU computes.

override LANES: u32 = 16;

fn sum_over_lanes(part: f32, lane: u32) -> f32 { return subgroupAdd(part); }

fn max_over_lanes(part: f32, lane: u32) -> f32 { return subgroupMax(part); }
