// The weights of the codec haar, four at a time.
//
//   by rows      low and high are the coefficients of columns 2k and 2k + 1: (low ± high) / √2; in salient
//                columns ((low ± high) + (low' ± high')) / √2, with coefficients of rows 2i and 2i + 1
//   by columns   (low ± high) / √2, with coefficients of rows 2i and 2i + 1
//
//   coefficient               mean ± scale[group]
//   of a salient column       mean[group] ± scale[group]
//
// Sums come before the one product, so that host and GPU are bit-identical whatever a driver fuses.
//
// Reference: dequantizeHaar() in codecs/haar/host.ts.

override BY_ROWS: bool;
override SCALES: u32;       // per row and block
override BLOCK_CHUNKS: u32; // chunks of a block
override BLOCKS: u32;       // of a row
override MASKS: u32;        // words of the mask of a layer, with padding

const HALF = 0.70710677f; // 1 / √2

// Signs and groups of the row itself (by rows), and those of the rows of its pair; where their scales begin.
struct Chunk {
  own: vec2u, low: vec2u, high: vec2u, mask: u32, own_at: u32, low_at: u32, high_at: u32, is_odd: bool
}

fn chunk_of(row: u32, chunk: u32, chunks: u32, part: u32) -> Chunk {
  let planes = select(2u, 4u, BY_ROWS);
  let first = row & ~1u;
  let at = (row * chunks + chunk) * planes;
  let low = (first * chunks + chunk) * planes + planes - 2;
  let high = low + chunks * planes;
  let block = chunk / BLOCK_CHUNKS;
  let pair = (first * BLOCKS + block) * SCALES;
  return Chunk(
    vec2u(codes[at], codes[at + 1]),
    vec2u(codes[low], codes[low + 1]),
    vec2u(codes[high], codes[high + 1]),
    masks[part * MASKS + chunk],
    (row * BLOCKS + block) * SCALES,
    pair,
    pair + BLOCKS * SCALES,
    (row & 1) == 1,
  );
}

fn signed(x: f32, bits: u32, i: u32) -> f32 { return select(-x, x, ((bits >> i) & 1) == 1); }

// With a mean for both groups.
fn shared_level(at: u32, bits: vec2u, i: u32) -> f32 {
  return scales[at] + signed(scales[at + 1 + ((bits.y >> i) & 1)], bits.x, i);
}

// With a mean for each group.
fn own_level(at: u32, bits: vec2u, i: u32) -> f32 {
  let group = at + 2 * ((bits.y >> i) & 1);
  return scales[group] + signed(scales[group + 1], bits.x, i);
}

fn both(c: Chunk, low: f32, high: f32) -> f32 { return select(low + high, low - high, c.is_odd); }

fn salient_part(c: Chunk, i: u32) -> f32 {
  let at = SCALES - 4;
  return both(c, own_level(c.low_at + at, c.low, i), own_level(c.high_at + at, c.high, i));
}

fn one_of_pair(c: Chunk, value: f32, i: u32) -> f32 {
  if (((c.mask >> i) & 1) == 1) { return (value + salient_part(c, i)) * HALF; }
  return value * HALF;
}

fn one(c: Chunk, i: u32) -> f32 {
  if (((c.mask >> i) & 1) == 1) { return salient_part(c, i) * HALF; }
  return both(c, shared_level(c.low_at, c.low, i), shared_level(c.high_at, c.high, i)) * HALF;
}

fn four(c: Chunk, i: u32) -> vec4f {
  if (!BY_ROWS) { return vec4f(one(c, i), one(c, i + 1), one(c, i + 2), one(c, i + 3)); }
  let low = vec2f(shared_level(c.own_at, c.own, i), shared_level(c.own_at, c.own, i + 2));
  let high = vec2f(shared_level(c.own_at + 3, c.own, i + 1), shared_level(c.own_at + 3, c.own, i + 3));
  return vec4f(
    one_of_pair(c, low.x + high.x, i),
    one_of_pair(c, low.x - high.x, i + 1),
    one_of_pair(c, low.y + high.y, i + 2),
    one_of_pair(c, low.y - high.y, i + 3),
  );
}
