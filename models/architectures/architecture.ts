import type { Op } from "../ops/mod.ts";
import type { NormOp } from "../ops/norm.ts";
import type { Fields } from "./fields.ts";

/** Everything about a model that its config.json says and a run must know. */
export interface Architecture {
  modelType: string;
  vocabularySize: number;
  hiddenSize: number;
  /** Width of the embedding and of what the head reads; `hiddenSize` where nothing projects. */
  embeddingSize: number;
  layers: number;
  /** Longest window that the model takes. */
  maxLength: number;
  /** The operations of a decoder layer, counted from 0. */
  steps(layer: number): readonly Op[];
  /** After the last layer; its module is named as in the checkpoint. */
  finalNorm?: NormOp;
  /** Names in the checkpoint, without ".weight" and ".bias". */
  names: {
    /** What stands before the name of a module of layer i. */
    layer(i: number): string;
    embedding: string;
    /** The head has weights of its own; else it is the embedding. */
    head?: string;
    /** Learned positions and the row of position 0. */
    positions?: { name: string; offset: number };
    projectIn?: string;
    projectOut?: string;
  };
}

/** Models that are read alike: those of one `model_type`. */
export interface ArchitectureFamily {
  /**
   * Reads what a config.json describes.
   *
   * @returns All but the model type.
   * @throws {UserError} If a field is missing, wrong or not supported.
   */
  read(fields: Fields): Omit<Architecture, "modelType">;
}
