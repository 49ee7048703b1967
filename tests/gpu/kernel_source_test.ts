/**
 * Every WGSL text of the project, with `-- --print` also on the screen:
 * `deno test -A tests/gpu/kernel_source_test.ts -- --print`
 */
import assert from "node:assert/strict";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { packedVectorKernel } from "../../codecs/billm/packed_vector_source.ts";
import { tableMatvecKernel } from "../../codecs/embedding/table_matvec_source.ts";
import { uniform } from "../../gpu/kernel.ts";
import { attentionBroadcastKernel } from "../../gpu/kernels/attention/attention_broadcast_source.ts";
import { attentionDecodeKernel } from "../../gpu/kernels/attention/attention_decode_source.ts";
import { attentionKernel } from "../../gpu/kernels/attention/attention_source.ts";
import { attentionTileKernel } from "../../gpu/kernels/attention/attention_tile_source.ts";
import { TILES } from "../../gpu/kernels/matmul/gemm.ts";
import { broadcastKernel } from "../../gpu/kernels/matmul/gemm_broadcast_source.ts";
import {
  ALL_F32,
  finishKernel,
  type GemmLayout,
  type Storages,
} from "../../gpu/kernels/matmul/gemm_source.ts";
import {
  tileKernel,
  tileKernelBytes,
  tileName,
  tileThreads,
} from "../../gpu/kernels/matmul/gemm_tile_source.ts";
import { matvecKernel } from "../../gpu/kernels/matmul/matvec_source.ts";
import { argmaxKernel } from "../../gpu/kernels/reduce/argmax_source.ts";
import { withReduction } from "../../gpu/kernels/reduce/reduction.ts";
import { PROJECT } from "../checkout.ts";
import { openAsHardware, openGpu } from "./open_gpu.ts";

const gpu = await openGpu();
const hardware = await openAsHardware();

const files = ["gpu", "codecs"].flatMap((room) =>
  readdirSync(join(PROJECT, room), { recursive: true }).map((name) =>
    join(PROJECT, room, `${name}`)
  )
).sort();
const texts = new Map(
  files.filter((path) => path.endsWith(".wgsl"))
    .map((path) => [basename(path), readFileSync(path, "utf8")]),
);
const modules = files.filter((path) => path.endsWith(".ts"))
  .map((path) => readFileSync(path, "utf8"));

/** Functions that kernels begin with. */
const PARTS = ["activate.wgsl", "round_f16.wgsl"];

const LAYOUTS: GemmLayout[] = ["NN", "NT", "TN"];
const STORAGES: Storages[] = [
  ALL_F32,
  { a: "f32", b: "f16", c: "f32", r: "f32" },
  { a: "f32", b: "bf16", c: "f32", r: "f32" },
  { a: "f16", b: "bf16", c: "f16", r: "f16" },
];

/** With the sums over lanes that it calls. */
function withSums(name: string, source: string): string {
  return withReduction(hardware, { name, source }).source as string;
}

/** The threads of its workgroups. */
const LANES = withReduction(hardware, { name: "", source: "" }).constants!.LANES;

/** The kernels that are generated, for all subgroup sizes that occur (4 to 64 lanes). */
const GENERATED: [name: string, source: string][] = [
  ...LAYOUTS.flatMap((layout) =>
    TILES.flatMap((tile) =>
      STORAGES.flatMap((storages) =>
        (["any", "aligned", "whole", "paired"] as const)
          .filter((fit) => fit !== "any" || storages.c === "f32")
          .map((fit): [string, string] => [
            `tileKernel ${layout} ${tileName(tile)}, ${fit}, ${Object.values(storages)}`,
            tileKernel(layout, tile, fit, storages),
          ])
      )
    )
  ),
  ...[4, 8, 16, 32, 64].flatMap((lanes): [string, string][] => [
    ...LAYOUTS.map((layout): [string, string] => [
      `broadcastKernel ${layout} of ${lanes} lanes`,
      broadcastKernel(layout, lanes),
    ]),
    ...[true, false].flatMap((slides) =>
      [true, false].map((isSegmented): [string, string] => [
        `attentionBroadcastKernel of ${lanes} lanes${slides ? ", sliding" : ""}` +
        (isSegmented ? ", segments" : ""),
        attentionBroadcastKernel(lanes === 8 ? 70 : 64, lanes, slides, isSegmented),
      ])
    ),
  ]),
  ...[0, 1, 2, 4, 7].flatMap((flags): [string, string][] => [
    [`finishKernel, aligned, flags ${flags}`, finishKernel(true, flags)],
    [`finishKernel, any, flags ${flags}`, finishKernel(false, flags)],
    [
      `finishKernel, f16, flags ${flags}`,
      finishKernel(true, flags, { c: "f16", r: "f16" }),
    ],
  ]),
  ...[64, 128].flatMap((headDim) =>
    [64, 128].flatMap((queries) =>
      [true, false].flatMap((slides) =>
        [true, false].map((isSegmented): [string, string] => [
          `attentionTileKernel for heads of ${headDim}, ${queries} queries` +
          (slides ? ", sliding" : "") + (isSegmented ? ", segments" : ""),
          attentionTileKernel(headDim, queries, slides, isSegmented),
        ])
      )
    )
  ),
  ...[2, 4, 6, 8, 32, 48, 64, 80, 96, 128, 256].map((headDim): [string, string] => [
    `attentionKernel for heads of ${headDim} in workgroup memory`,
    attentionKernel(headDim, 32, headDim % 16 === 0),
  ]),
  [
    "attentionKernel for heads of 80, sliding, segments",
    attentionKernel(80, 32, true, true),
  ],
  ...[2, 7, 32, 64, 80, 128, 256].flatMap((headDim) =>
    (["f32", "f16"] as const).flatMap((dtype) =>
      ([undefined, "unturned", "turned"] as const)
        .filter((append) => append !== "turned" || headDim % 2 === 0)
        .flatMap((append) =>
          [1, 4].map((together): [string, string] => [
            `attentionDecodeKernel for heads of ${headDim} in ${dtype}, ${together} threads a key${
              append ? `, ${append}` : ""
            }`,
            withSums(
              "attention_decode",
              attentionDecodeKernel({ headDim, dtype, lanes: LANES, keys: 512, together, append }),
            ),
          ])
        )
    )
  ),
  ...(["f32", "f16", "bf16"] as const).flatMap((dtype) =>
    [true, false].flatMap((aligned) =>
      [true, false].map((useSubgroup): [string, string] => [
        `matvecKernel of ${dtype}${aligned ? "" : ", any"}${useSubgroup ? ", a subgroup" : ""}`,
        matvecKernel(dtype, 32, useSubgroup, aligned),
      ])
    )
  ),
  ...[true, false].map((aligned): [string, string] => [
    `argmaxKernel${aligned ? "" : ", any"}`,
    withSums("argmax", argmaxKernel(LANES, aligned)),
  ]),
  ...[8, 16, 32, 64].flatMap((lanes) =>
    (["plain", "rms", "activation", "gated"] as const).map((input, i): [string, string] => [
      `packedVectorKernel of ${input}, subgroups of ${lanes}`,
      texts.get("activate.wgsl")! + packedVectorKernel(
        { zones: i === 3 ? 1 : 2, planes: i, coded: i % 2 === 0, mixed: false },
        {
          ...{ lanes, splits: 4, steps: 1 + i % 2, turns: i < 2 },
          subgroupBarriers: gpu.subgroupBarriers && i > 1,
        },
        input,
        1 + i,
      ),
    ])
  ),
  ...([8, 4] as const).flatMap((bits) =>
    [true, false].flatMap((aligned) =>
      [true, false].map((useSubgroup): [string, string] => [
        `tableMatvecKernel of ${bits} bits${aligned ? "" : ", any"}${
          useSubgroup ? ", a subgroup" : ""
        }`,
        tableMatvecKernel({ bits, group: 8 * bits }, 32, useSubgroup, aligned),
      ])
    )
  ),
];

/** What naga says of a text; undefined if it is valid. */
async function complaint(code: string): Promise<string | undefined> {
  gpu.device.pushErrorScope("validation");
  gpu.device.createShaderModule({ code });
  return (await gpu.device.popErrorScope())?.message;
}

Deno.test("generated kernels are valid WGSL", async () => {
  for (const [name, source] of GENERATED) {
    if (Deno.args.includes("--print")) console.log(source);
    assert.equal(await complaint(source), undefined, name);
    assert(!/undefined|NaN|\bvectors\b|\$\{/.test(source), `${name}: a rest of the generator`);
  }
});

for (const [name, source] of texts) {
  Deno.test(`${name} is valid WGSL, bound in order and in use`, async () => {
    if (Deno.args.includes("--print")) console.log(source);
    if (name.startsWith("reduce") || PARTS.includes(name)) {
      assert.equal(await complaint(source), undefined);
    } else {
      for (const device of [gpu, hardware]) {
        let complete = source;
        if (/\bactivate\(/.test(source)) complete = texts.get("activate.wgsl")! + complete;
        if (/\brounded\(/.test(source)) complete = texts.get("round_f16.wgsl")! + complete;
        if (/_over_lanes/.test(source)) {
          complete = withReduction(device, { name, source: complete }).source as string;
        }
        assert.equal(await complaint(complete), undefined);
      }
      const numbers = [...source.matchAll(/@binding\((\d+)\)/g)].map(([, number]) =>
        Number(number)
      );
      assert.deepEqual(numbers, numbers.map((_, i) => i), "bindings count from 0");
    }
    assert(modules.some((text) => text.includes(`/${name}"`)), "a module imports it");
  });

  Deno.test(`${name} begins with what it computes and names a reference that exists`, () => {
    assert.match(source, /^\/\/ \S/);
    const [, reference] = /Reference: (?:\w+\(\) in )?(\S+\.ts)\./.exec(source) ?? [];
    if (reference) assert(statSync(join(PROJECT, reference)).isFile);
    else assert(!/Reference:/.test(source));
  });

  Deno.test(`${name} lists u32 parameters before f32 ones, as uniform() packs them`, () => {
    const [, fields] = /struct Params \{([^}]*)\}/.exec(source) ?? [];
    if (fields === undefined) return;
    const types = [...fields.matchAll(/\w+: (\w+)/g)].map(([, type]) => type);
    assert.deepEqual(types, types.toSorted().reverse(), "u32 sorts after f32");
    assert(types.every((type) => type === "u32" || type === "f32"));
  });
}

Deno.test("uniform() packs u32 first and then f32", () => {
  const packed = uniform([1, 0xffffffff], [0.5]);
  assert.deepEqual(new Uint32Array(packed.buffer, 0, 2), Uint32Array.of(1, 0xffffffff));
  assert.deepEqual(new Float32Array(packed.buffer, 8, 1), Float32Array.of(0.5));
  assert.equal(uniform([]).byteLength, 0);
});

Deno.test("the tile kernel keeps its sums in registers and its tiles in workgroup memory", () => {
  for (const layout of LAYOUTS) {
    for (const tile of TILES) {
      const source = tileKernel(layout, tile, "whole");
      assert(source.includes(`@workgroup_size(${tileThreads(tile)})`));
      for (const fit of ["whole", "paired"] as const) {
        const bytes = [
          ...tileKernel(layout, tile, fit).matchAll(/array<array<vec4f, (\d+)>, (\d+)>/g),
        ]
          .reduce((sum, [, width, depth]) => sum + Number(width) * Number(depth) * 16, 0);
        assert.equal(bytes, tileKernelBytes(layout, tile, fit));
      }
      const products = [...source.matchAll(/fma\(/g)].length;
      const vectors = tile.threadRows * tile.threadCols / 4;
      assert.equal(products, vectors * tile.depth, "written out, four entries each");
    }
    for (const tile of TILES.slice(0, 2)) { // which need no measurement
      assert(tileKernelBytes(layout, tile, "whole") <= 17408); // what most GPUs have is 32 KiB
    }
  }
});
