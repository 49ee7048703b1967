import type { Gpu } from "../../gpu/device.ts";
import type { Draft } from "../codec.ts";
import { haar } from "./codec.ts";
import type { HaarHost } from "./host.ts";
import { emptyHaar, freeHaar, type HaarLayout, type HaarTensors } from "./layout.ts";

/** The draft of a linear layer of the codec haar, which stages quantize block by block. */
export class HaarDraft implements Draft<HaarHost> {
  readonly codec = haar;
  readonly linear: HaarTensors;

  constructor(readonly gpu: Gpu, layout: HaarLayout) {
    this.linear = emptyHaar(gpu, layout);
  }

  /** Rounds nothing: the scales are f16 values already. */
  async download(): Promise<HaarHost> {
    const { gpu } = this;
    const { codes, scales, mask, ...layout } = this.linear;
    return {
      ...layout,
      codes: await gpu.read(codes, "u32"),
      scales: await gpu.read(scales),
      mask: await gpu.read(mask, "u32"),
    };
  }

  [Symbol.dispose](): void {
    freeHaar(this.gpu, this.linear);
  }
}
