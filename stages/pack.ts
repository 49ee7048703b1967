import { existsSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { crc32 } from "node:zlib";
import { z } from "zod";
import { UserError } from "../base/errors.ts";
import { sum } from "../base/figures.ts";
import { packEmbedding } from "../codecs/embedding/embedding.ts";
import type { Codec, PackedLinear } from "../codecs/codec.ts";
import { partOf, storeLinear, versionFor } from "../codecs/mod.ts";
import { rotationConfigOf } from "../codecs/quantization_config.ts";
import { statedRotations } from "../codecs/stated_rotation.ts";
import { SMALL_FILES } from "../models/model_files.ts";
import { layerPlaces } from "../models/places.ts";
import type { LinearRecord } from "../pipeline/run/events.ts";
import type { PackedModel, WrittenFileRecord } from "../pipeline/run/record.ts";
import { defineStage, type ModelContext } from "../pipeline/stage.ts";
import { Checkpoint } from "../storage/checkpoint.ts";
import { denoFile } from "../storage/deno_folder.ts";
import { copyFileAtomically, sha256OfFile, writeJsonAtomically } from "../storage/files.ts";
import { packedMetadata } from "../storage/packed_metadata.ts";
import {
  fromFloat32,
  isFloatDtype,
  type TensorToWrite,
  toFloat32,
} from "../storage/safetensors.ts";
import { writeSafetensors } from "../storage/write_safetensors.ts";

function shardName(shard: number, layers: number): string {
  const digits = (n: number) => String(n).padStart(5, "0");
  return `model-${digits(shard)}-of-${digits(layers + 1)}.safetensors`;
}

/**
 * The stage that writes the packed model: a shard for each decoder layer as soon as it is quantized, then
 * the tensors outside the layers, the index, config.json and the tokenizer.
 */
export const pack = defineStage({
  name: "pack",
  scope: "group",
  summary: "Write the packed model",
  options: z.strictObject({
    "scales": z.enum(["f16", "i8", "i4"]).default("i8").describe(
      "Type of BiLLM's means and scales: f16, or 8 or 4 bits with two f16 factors per row; those of " +
        "other methods are always f16",
    ),
    "flags": z.enum(["plain", "entropy"]).default("plain").describe(
      "Coding of the zones of the weights, or of pb-llm's salient weights: one bit each (or a list), or " +
        "entropy-coded, which takes the host one second for 200 million weights",
    ),
    "embeddings": z.literal(["stored", 8, 4]).default(8).describe(
      "Bits of the embeddings and the head, with one f16 scale per 64 (in 4 bits: 32) numbers of a " +
        "row; stored: as in the original",
    ),
  }),
  presets: { reference: { scales: "f16", embeddings: "stored" } },
  needs: ["model-files"],
  gives: ["packed-model"],

  async run({ linears }, form) {
    for (const linear of linears) {
      const { draft } = linear;
      if (!draft) {
        throw new UserError(
          `Cannot pack "${linear.name}": no stage before pack has quantized it; ` +
            `put a stage that does, such as compensate, before pack`,
        );
      }
      const host = await draft.download(form, linear.quantized);
      const { transform } = linear;
      linear.packed = { codec: draft.codec, host, ...(transform && { transform }) };
      refuseInfinite(linear.name, linear.packed);
    }
  },

  async endLayer(context, form, linears) {
    const { checkpoint, architecture } = context.get("model-files");
    const { index } = context.layer;
    const prefix = architecture.names.layer(index);
    const places = [...layerPlaces(architecture, index)].filter(({ linear }) => linear);
    const packed = new Set(places.map(({ name }) => name));
    const tensors = linears.flatMap((linear) => {
      const { tensors, parts } = storeLinear(linear.name, linear.packed!, form);
      const { codec, host } = linear.packed!;
      linear.stored = { ...codec.facts(host), storedBytes: parts };
      return tensors;
    });
    for (const name of checkpoint.tensors.keys()) {
      if (!name.startsWith(prefix) || packed.has(name)) continue;
      tensors.push(copyOf(checkpoint, name));
    }
    const version = versionFor(
      linears.map(({ packed }) => packed!.codec),
      tensors.map(({ name }) => name),
      linears.some(({ transform }) => transform),
    );
    const file = shardName(index + 2, context.layer.count);
    const path = join(context.folder.model, file);
    const rotations = linears.map(({ name, transform }) => ({ name, ...transform }));
    const metadata = {
      ...packedMetadata(tensors, version, crc32),
      ...statedRotations(rotations),
    };
    const { bytes, sha256 } = writeSafetensors(path, tensors, metadata);
    return { file, bytes, sha256 };
  },

  async check(context, { embeddings }) {
    const { hiddenSize, embeddingSize } = context.get("model-files").architecture;
    const odd = [embeddingSize, hiddenSize].find((width) => width % 2);
    if (embeddings === 4 && odd !== undefined) {
      throw new UserError(
        `Cannot pack the embeddings in 4 bits: they are ${odd} wide, which is odd; ` +
          `use embeddings: 8`,
      );
    }
  },

  async finish(context, { embeddings }) {
    const model = context.get("model-files");
    const { architecture, checkpoint, config } = model;
    const { embedding, positions, head } = architecture.names;
    const tables = new Set([embedding, positions?.name, head].map((name) => `${name}.weight`));
    const { layers } = architecture;
    const outside: TensorToWrite[] = [];
    const replaced = context.find("outside-tensors");
    const prefixes = Array.from({ length: layers }, (_, i) => architecture.names.layer(i));
    for (const name of checkpoint.tensors.keys()) {
      if (prefixes.some((prefix) => name.startsWith(prefix))) continue;
      // Some checkpoints have a tied head's weight twice.
      if (name === "lm_head.weight" && !architecture.names.head) continue;
      if (embeddings !== "stored" && tables.has(name)) {
        const table = name.slice(0, -".weight".length);
        outside.push(...packEmbedding(checkpoint, table, embeddings, model.name));
      } else {
        const values = replaced?.get(name);
        outside.push(
          values ? replacementOf(checkpoint, name, values) : copyOf(checkpoint, name),
        );
      }
    }
    const first = shardName(1, layers);
    const path = join(context.folder.model, first);
    const { sha256 } = writeSafetensors(
      path,
      outside,
      packedMetadata(outside, versionFor([]), crc32),
    );

    const linears = context.layerRecords.flatMap(({ linears }) => linears);
    const method = linears.find(({ method }) => method)?.method;
    const counts = countShards(context);
    const rotation = rotationConfigOf(
      context.layerRecords.flatMap(({ layer, linears }) => {
        const prefix = architecture.names.layer(layer);
        return linears.map(({ name, rotation }) => ({
          name,
          module: name.slice(prefix.length),
          rotation,
        }));
      }),
    );
    writeJsonAtomically(join(context.folder.model, "config.json"), {
      ...config,
      quantization_config: model.packedConfig(
        context.blockSize,
        versionFor(
          counts.codecs,
          counts.weightMap.map(([name]) => name),
          linears.some(isTransformed),
        ),
        method,
        rotation,
      ),
    });
    copySmallFiles(context);
    const shards = context.layerRecords.map(({ file, sha256 }) => [file, sha256] as const);
    context.set("packed-model", summarize(context, counts, new Map([[first, sha256], ...shards])));
  },
});

/** @throws {UserError} If the scales of a linear layer do not fit f16, which makes them infinite. */
function refuseInfinite(name: string, { codec, host }: PackedLinear): void {
  for (const [part, count] of Object.entries(codec.nonFinite(host))) {
    if (count === 0) continue;
    throw new UserError(
      `Cannot pack "${name}": ${count} values of "${name}.${part}" are NaN or exceed the range of ` +
        `f16; use another method, or more calibration text if the method uses any`,
    );
  }
}

function isTransformed({ rotation, exponent }: LinearRecord): boolean {
  return rotation !== undefined || exponent !== undefined;
}

/** Bytes per chunk when a tensor is copied. */
const CHUNK = 16 << 20;

/** A tensor of the original; its data can be iterated several times. */
function copyOf(checkpoint: Checkpoint, name: string): TensorToWrite {
  const { dtype, shape } = checkpoint.get(name);
  const data = { [Symbol.iterator]: () => checkpoint.readChunks(name, CHUNK) };
  return { name, dtype, shape, data };
}

/**
 * New values for a tensor of the original, stored as it is.
 *
 * @throws {UserError} If its dtype cannot hold them.
 */
function replacementOf(checkpoint: Checkpoint, name: string, values: Float32Array): TensorToWrite {
  const { dtype, shape } = checkpoint.get(name);
  const data = isFloatDtype(dtype) ? fromFloat32(values, dtype) : undefined;
  if (data && toFloat32(data, dtype as "F32").every(Number.isFinite)) {
    return { name, dtype, shape, data };
  }
  throw new UserError(
    `Cannot store the new values of "${name}": ${dtype}, its type, does not hold them; ` +
      `leave out the stage that changes it, such as refit-norm`,
  );
}

function copySmallFiles(context: ModelContext): void {
  const { folder } = context.get("model-files");
  for (const name of SMALL_FILES.filter((name) => name !== "config.json")) {
    if (!existsSync(join(folder, name))) continue;
    copyFileAtomically(join(folder, name), join(context.folder.model, name));
  }
}

/** Contents of the shards, from their headers. */
interface ShardCounts {
  /** The shard of each tensor. */
  weightMap: [tensor: string, shard: string][];
  /** Codecs of the linear layers. */
  codecs: Set<Codec>;
  /** Bytes of the linear layers, and of the headers of their shards. */
  bytesByPart: Record<string, number>;
  bytes: number;
  /** Bytes without headers. */
  tensorBytes: number;
}

function countShards(context: ModelContext): ShardCounts {
  const { layers } = context.get("model-files").architecture;
  const counts: ShardCounts = {
    weightMap: [],
    codecs: new Set(),
    bytesByPart: { headers: 0 },
    bytes: 0,
    tensorBytes: 0,
  };
  const { weightMap, codecs, bytesByPart } = counts;
  for (let shard = 1; shard <= layers + 1; shard++) {
    const name = shardName(shard, layers);
    const path = join(context.folder.model, name);
    using written = Checkpoint.openFile(denoFile(path));
    let content = 0;
    for (const tensor of written.tensors.values()) {
      weightMap.push([tensor.name, name]);
      content += tensor.bytes;
      const found = partOf(written, tensor.name);
      if (!found) continue;
      codecs.add(found.codec);
      bytesByPart[found.part] = (bytesByPart[found.part] ?? 0) + tensor.bytes;
    }
    const size = statSync(path).size;
    if (shard > 1) bytesByPart.headers += size - content;
    counts.bytes += size;
    counts.tensorBytes += content;
  }
  return counts;
}

/**
 * Writes the index of the shards and summarizes the packed model.
 *
 * @param known Known hashes of files.
 */
function summarize(
  context: ModelContext,
  { weightMap, bytesByPart, bytes, tensorBytes }: ShardCounts,
  known: Map<string, string>,
): PackedModel {
  const { architecture, checkpoint, files: originals } = context.get("model-files");
  const { layers } = architecture;
  const folder = context.folder.model;
  weightMap.sort(([a], [b]) => (a < b ? -1 : 1));
  writeJsonAtomically(join(folder, "model.safetensors.index.json"), {
    metadata: { total_size: tensorBytes },
    weight_map: Object.fromEntries(weightMap),
  });

  const linears = context.layerRecords.flatMap(({ linears }) => linears);
  const weights = sum(linears.map(({ rows, cols }) => rows * cols));
  const paper = sum(linears.map(({ paperBits, rows, cols }) => paperBits * rows * cols));
  const perWeight = (count: number) => count * 8 / weights;
  const linearBytes = sum(Object.values(bytesByPart));
  const weightFiles = new Set(checkpoint.files);
  const originalBytes = sum(
    originals.filter((path) => weightFiles.has(basename(path))).map((path) => statSync(path).size),
  );
  const files: WrittenFileRecord[] = [];
  const shards = Array.from({ length: layers + 1 }, (_, i) => shardName(i + 1, layers));
  const small = SMALL_FILES.filter((name) => existsSync(join(folder, name)));
  for (const name of [...small, "model.safetensors.index.json", ...shards]) {
    const path = join(folder, name);
    const sha256 = known.get(name) ?? sha256OfFile(path);
    files.push({ name, bytes: statSync(path).size, sha256 });
  }
  return {
    folder,
    files,
    bytes,
    originalBytes,
    weights,
    paperBits: paper / weights,
    storedBits: perWeight(linearBytes),
    storedBitsByPart: Object.fromEntries(
      Object.entries(bytesByPart).map(([part, count]) => [part, perWeight(count)]),
    ),
  };
}
