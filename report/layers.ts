import type { LayerRecord, LinearRecord } from "../pipeline/run/events.ts";
import { isNumber, sum, sumByKey } from "../base/figures.ts";

/** The name of a linear layer within a decoder layer: "self_attn.q_proj". */
export function moduleOf(name: string): string {
  return name.replace(/^.*?\.\d+\./, "");
}

/** Short names of modules: the last word ("q_proj"), unless two modules share it. */
export function shortNames(modules: readonly string[]): string[] {
  const last = (name: string) => name.slice(name.lastIndexOf(".") + 1);
  const isOwn = new Set(modules.map(last)).size === modules.length;
  return isOwn ? modules.map(last) : [...modules];
}

/** The linear layers of all decoder layers by module. */
export class LayerTable {
  /** In the order of execution. */
  readonly modules: readonly string[];

  constructor(readonly layers: readonly LayerRecord[]) {
    const names = layers.flatMap(({ linears }) => linears.map(({ name }) => moduleOf(name)));
    this.modules = [...new Set(names)];
  }

  get linears(): LinearRecord[] {
    return this.layers.flatMap(({ linears }) => linears);
  }

  /** The linear layers of a module, from the first decoder layer on. */
  of(module: string): LinearRecord[] {
    return this.linears.filter(({ name }) => moduleOf(name) === module);
  }

  /** A figure of each linear layer by module and decoder layer. */
  values(of: (linear: LinearRecord) => number | undefined): (number | undefined)[][] {
    return this.modules.map((module) =>
      this.layers.map(({ linears }) => {
        const linear = linears.find(({ name }) => moduleOf(name) === module);
        const value = linear && of(linear);
        return isNumber(value) ? value : undefined;
      })
    );
  }
}

/** Stored bits per weight of linear layers by part, without file headers. */
export function bitsByPart(linears: readonly LinearRecord[]): Record<string, number> {
  const weights = sum(linears.map(({ rows, cols }) => rows * cols));
  const bytes = sumByKey(linears.map(({ storedBytes }) => storedBytes));
  return Object.fromEntries(
    Object.entries(bytes).map(([part, bytes]) => [part, 8 * bytes / weights]),
  );
}
