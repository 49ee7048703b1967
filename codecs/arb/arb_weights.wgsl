// The weights of the codec arb, four at a time.
//
//   column scales, ordinary column   ± r[zone] c[zone]
//   column scales, salient column    ± r[zone, 0] c[zone, 0] ± r[zone, 1] c[zone, 1]
//   means, ordinary column           mean[zone] ± scale[zone]
//   means, salient column            (mean[zone] ± scale[zone, 0]) ± scale[zone, 1]
//
// Host and GPU are bit-identical: products of two f16 values are exact in f32, so that it makes no
// difference whether a driver fuses products and sums.
//
// Reference: dequantizeArb() in codecs/arb/host.ts.

override COLUMN_SCALES: bool;
override BITMAP: bool;
override SCALES: u32;       // per row and block
override BLOCK_CHUNKS: u32; // chunks of a block
override BLOCKS: u32;       // of a row
override MASKS: u32;        // words of the mask of a layer, with padding

struct Chunk { signs: u32, zones: u32, seconds: u32, mask: u32, scales_at: u32, columns_at: u32 }

fn chunk_of(row: u32, chunk: u32, chunks: u32, part: u32) -> Chunk {
  let at = (row * chunks + chunk) * select(2u, 3u, BITMAP);
  let mask = masks[part * MASKS + chunk];
  let flags = codes[at + 1];
  var zones = flags;
  var seconds = flags;
  if (BITMAP) { seconds = codes[at + 2]; } else { zones = flags & ~mask; }
  return Chunk(
    codes[at],
    zones,
    seconds,
    mask,
    (row * BLOCKS + chunk / BLOCK_CHUNKS) * SCALES,
    (part * chunks + chunk) * 32,
  );
}

fn signed(x: f32, bits: u32, i: u32) -> f32 { return select(-x, x, ((bits >> i) & 1) == 1); }

fn one(c: Chunk, i: u32) -> f32 {
  let zone = (c.zones >> i) & 1;
  let is_salient = ((c.mask >> i) & 1) == 1;
  if (COLUMN_SCALES) {
    let own = column_scales[c.columns_at + i];
    if (!is_salient) { return signed(scales[c.scales_at + zone] * own[zone], c.signs, i); }
    let at = c.scales_at + 2 + 2 * zone;
    return signed(scales[at] * own[2 * zone], c.signs, i) +
      signed(scales[at + 1] * own[2 * zone + 1], c.seconds, i);
  }
  if (!is_salient) {
    let at = c.scales_at + 2 * zone;
    return scales[at] + signed(scales[at + 1], c.signs, i);
  }
  let at = c.scales_at + 4 + 3 * zone;
  return scales[at] + signed(scales[at + 1], c.signs, i) + signed(scales[at + 2], c.seconds, i);
}

fn four(c: Chunk, i: u32) -> vec4f {
  return vec4f(one(c, i), one(c, i + 1), one(c, i + 2), one(c, i + 3));
}
