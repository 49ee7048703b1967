// The best move of a workgroup that is exactly one subgroup. Prepended to search_row.wgsl.

override LANES: u32 = 16;

struct Move { gain: f32, step: f32, col: u32, code: u32 }

fn prepare(lane: u32) {}

fn choose(own: Move, turn: u32, lane: u32) -> Move {
  let gain = subgroupMin(own.gain);
  let col = subgroupMin(select(0xffffffffu, own.col, own.gain == gain));
  let wins = own.gain == gain && own.col == col && own.step != 0.0;
  return Move(
    gain,
    subgroupAdd(select(0.0, own.step, wins)),
    col,
    subgroupAdd(select(0u, own.code, wins)),
  );
}
