// The trellis codec on single linear layers against an independent implementation: what streams decode to,
// and the streams and relative output errors that the encoder leaves. The expected numbers lie outside the
// project; the test says so where they are missing.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { loadLinear, storeLinear } from "../../codecs/mod.ts";
import { trellis as codec } from "../../codecs/trellis/codec.ts";
import type { TrellisDraft } from "../../codecs/trellis/draft.ts";
import { dequantizeTrellisHost, type TrellisHost } from "../../codecs/trellis/store.ts";
import type { StateBits, TrellisBits } from "../../codecs/trellis/trellis.ts";
import { quantizeLinear } from "../../pipeline/run/quantize_linear.ts";
import { type Planned, StageClock } from "../../pipeline/run/run.ts";
import type { LinearStage } from "../../pipeline/stage.ts";
import { trellis } from "../../stages/trellis.ts";
import { Checkpoint } from "../../storage/checkpoint.ts";
import { denoFolder } from "../../storage/deno_folder.ts";
import { writeSafetensors } from "../../storage/write_safetensors.ts";
import { openGpu } from "../gpu/open_gpu.ts";
import { TemporaryFolder } from "../temporary_folder.ts";
import {
  areLayersThere,
  errorOf,
  expectedOf,
  FIXTURES,
  LAYERS,
  open,
  suffix,
  uploadLayer,
} from "./single_layers.ts";

const NAME = "model.layers.0.self_attn.v_proj";
const ROTATION = { seed: 0, block: 64 };
const TOLERANCE = 0.02;

/** A layer of the fixtures by the name of its codec: "trellis-1.5", "trellis-2-L8", "trellis-2-noorder". */
function hostOf(file: Checkpoint, name: string): TrellisHost {
  const [, bits, table] = name.match(/^trellis-([\d.]+)(-L8)?/)!;
  const [below, beside] = file.get(`${name}.stream`).shape;
  const order = file.has(`${name}.permutation`) &&
    Uint32Array.from(new Uint16Array(file.readBytes(`${name}.permutation`).buffer));
  return {
    rows: 16 * below,
    cols: 16 * beside,
    bits: Number(bits) as TrellisBits,
    stateBits: (table ? 8 : 12) as StateBits,
    stream: new Uint32Array(file.readBytes(`${name}.stream`).buffer),
    scales: file.readFloat32(`${name}.scale`),
    ...(order && { order }),
  };
}

function digest(weights: Float32Array): string {
  return createHash("sha256").update(weights.map((weight) => weight + 0)).digest("hex");
}

Deno.test({
  name: `streams of all rates decode to the expected weights${suffix}`,
  ignore: !areLayersThere,
  async fn() {
    await using gpu = await openGpu();
    for (const layer of LAYERS) {
      const expected = expectedOf(layer);
      using file = open(`${FIXTURES}/codes-${layer}.safetensors`);
      const names = Object.keys(expected).filter((name) =>
        /^trellis/.test(name) && file.has(`${name}.stream`)
      );
      assert.equal(names.length, 8);
      for (const name of names) {
        const host = hostOf(file, name);
        using folder = new TemporaryFolder();
        const { tensors } = storeLinear(NAME, { codec, host }, { scales: "f16", flags: "plain" });
        writeSafetensors(join(folder.path, "model.safetensors"), tensors);
        using written = Checkpoint.open(denoFolder(folder.path));
        const read = loadLinear(written, {
          ...{ quant_method: "billm", format_version: 5, block_size: 128 },
          columns: { [NAME]: host.cols },
        }, NAME)!.host as TrellisHost;
        assert.deepEqual(read, host);
        const weights = dequantizeTrellisHost(read);
        assert.equal(digest(weights), expected[name].decoded_sha256, `${layer} ${name}`);
        using matrix = await codec.matrix(gpu, read);
        assert.deepEqual(await gpu.read(matrix), weights);
      }
    }
  },
});

/** The fraction of equal words, in the first column of tiles and in all. */
function equalWords(found: TrellisHost, wanted: TrellisHost): { first: number; all: number } {
  const words = found.stream.length / (found.rows * found.cols / 256);
  const beside = found.cols / 16;
  const [same, count] = [[0, 0], [0, 0]];
  found.stream.forEach((word, i) => {
    const isEqual = Number(word === wanted.stream[i]);
    const isFirst = Number(Math.floor(i / words) % beside === 0);
    same[0] += isFirst * isEqual;
    count[0] += isFirst;
    same[1] += isEqual;
    count[1]++;
  });
  return { first: same[0] / count[0], all: same[1] / count[1] };
}

/** Small tables on the larger layers, large ones where they take little time. */
const ENCODED: Record<string, string[]> = {
  "tiny-k": [1, 1.5, 2, 2.5, 3].map((bits) => `trellis-${bits}`).concat("trellis-2-noorder"),
  "smollm2-v": ["trellis-1-L8", "trellis-2-L8"],
  "smollm2-down": ["trellis-2-L8"],
};

for (const layer of LAYERS) {
  Deno.test({
    name: `the encoder gives the streams expected of ${layer}, with the same output error${suffix}`,
    ignore: !areLayersThere,
    async fn() {
      await using gpu = await openGpu();
      const expected = expectedOf(layer);
      using file = open(`${FIXTURES}/codes-${layer}.safetensors`);
      const uploaded = await uploadLayer(gpu, layer, 128, () => true, ROTATION);
      const { linear, context } = uploaded;
      using store = uploaded.store;
      const names = Deno.args.includes("--all")
        ? Object.keys(expected).filter((name) =>
          file.has(`${name}.stream`) && /^trellis/.test(name)
        )
        : ENCODED[layer];
      for (const name of names) {
        const wanted = hostOf(file, name);
        gpu.copy(linear.original, linear.weight);
        const options = trellis.options.parse({
          bits: wanted.bits,
          table: wanted.stateBits,
          order: wanted.order ? "falling" : "none",
        });
        const planned = [{ stage: trellis, options }] as unknown as Planned<LinearStage>[];
        const start = performance.now();
        await quantizeLinear(context, store, linear, planned, new StageClock(gpu));
        const draft = linear.draft as TrellisDraft;
        const error = await errorOf(linear, store.get("hessian"));
        const host = await draft.download();
        const { first, all } = equalWords(host, wanted);
        if (Deno.args.includes("--all")) {
          const seconds = (performance.now() - start) / 1000;
          console.log(
            `${name}: error ${error.toFixed(6)}, expected ${expected[name].proxy}; ` +
              `equal words ${first.toFixed(3)}, ${all.toFixed(3)}; ${seconds.toFixed(1)} s`,
          );
        }
        assert.deepEqual(host.order, wanted.order);
        assert.ok(first > 0.98, `${name}: ${first} of the first words are equal`);
        const limit = (1 + TOLERANCE) * expected[name].proxy;
        assert.ok(error < limit, `${name}: ${error}, expected ${expected[name].proxy}`);
        assert.deepEqual(dequantizeTrellisHost(host), await gpu.read(linear.quantized), name);
        draft[Symbol.dispose]();
        delete linear.draft;
      }
    },
  });
}
