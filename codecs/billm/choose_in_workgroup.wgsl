// The best move of a workgroup of at most 1024 threads. Prepended to search_row.wgsl.
//
// Gains are compared in 22 bits, with the thread in the other ten.

override LANES: u32 = 256;

struct Move { gain: f32, step: f32, col: u32, code: u32 }

// The least key of the even and of the odd turns.
var<workgroup> keys: array<atomic<u32>, 2>;
var<workgroup> chosen: Move;

fn prepare(lane: u32) {
  if (lane < 2) { atomicStore(&keys[lane], 0xffffffffu); }
}

fn choose(own: Move, turn: u32, lane: u32) -> Move {
  let word = bitcast<u32>(own.gain);
  let ascending = select(word | 0x80000000u, ~word, (word >> 31u) == 1u);
  atomicMin(&keys[turn & 1], (ascending & 0xfffffc00u) | lane);
  workgroupBarrier();
  if ((atomicLoad(&keys[turn & 1]) & 0x3ffu) == lane) {
    chosen = own;
    atomicStore(&keys[(turn + 1) & 1], 0xffffffffu);
  }
  workgroupBarrier();
  return chosen;
}
