import { UserError } from "../../base/errors.ts";
import {
  type Question,
  type Questions,
  type ScoreRequest,
  trailingSpace,
  type ZeroShotTask,
} from "../../data/zero_shot_tasks.ts";
import type { Gpu } from "../../gpu/device.ts";
import type { ZeroShot } from "./figures.ts";
import type { ModelFiles } from "../model_files.ts";
import type { TextTokenizer } from "../tokenizers/tokenizer.ts";
import { logLikelihoods } from "./log_likelihoods.ts";
import type { Prompt } from "./prompt_batch.ts";

/** What of a tokenizer is needed to encode requests. */
export type RequestTokenizer = Pick<TextTokenizer, "encode" | "bosId" | "eosId">;

export interface EncodeOptions {
  /** Whether what the tokenizer adds to a text stands before each context. */
  specialTokens: boolean;
  /** Tokens that the model reads at most. */
  maxLength: number;
}

/** The questions of a task, ready for a model. */
export interface PreparedTask {
  task: ZeroShotTask;
  /** Name of the data, for the record. */
  dataset: string;
  specialTokens: boolean;
  /** The greatest number of questions that was asked for. */
  limit?: number;
  prepared: boolean;
  questions: Question[];
  /** One for each choice of each question. */
  prompts: Prompt[][];
  /** Prompts that have lost the beginning of their contexts. */
  truncated: number;
}

/**
 * Encodes requests one by one as lm-evaluation-harness does: white space at the end of a context counts
 * to the continuation, and the continuation's tokens are those that the whole text has beyond the
 * context's. An empty context becomes the tokenizer's first token, or its last. What is too long loses
 * tokens at the beginning.
 */
export class RequestEncoder {
  #known?: { context: string; ids: number[] };

  constructor(readonly tokenizer: RequestTokenizer, readonly options: EncodeOptions) {}

  /** @throws {UserError} If there is nothing to score, or nothing to begin with. */
  encode({ context, continuation }: ScoreRequest): Prompt & { isTruncated: boolean } {
    const { tokenizer, options: { maxLength, specialTokens } } = this;
    const space = trailingSpace(context);
    const before = context.slice(0, context.length - space.length);
    const after = space + continuation;
    let start = this.#encodeContext(before);
    let ids: number[];
    if (start.length === 0) {
      start = [this.#firstToken()];
      ids = [...start, ...tokenizer.encode(after, { specialTokens: false })];
    } else ids = tokenizer.encode(before + after, { specialTokens });
    const scored = ids.length - start.length;
    if (scored < 1) {
      throw new UserError(`The tokenizer gives the continuation "${continuation}" no token`);
    }
    if (scored > maxLength) {
      throw new UserError(
        `A continuation has ${scored} tokens, but the model takes at most ${maxLength}`,
      );
    }
    const isTruncated = ids.length > maxLength + 1; // the last one is not read
    return { tokens: Int32Array.from(ids.slice(-(maxLength + 1))), scored, isTruncated };
  }

  /** The choices of a question have the same context, mostly. */
  #encodeContext(context: string): number[] {
    if (this.#known?.context !== context) {
      const { tokenizer, options: { specialTokens } } = this;
      const ids = context === "" ? [] : tokenizer.encode(context, { specialTokens });
      this.#known = { context, ids };
    }
    return this.#known.ids;
  }

  #firstToken(): number {
    const { bosId, eosId } = this.tokenizer;
    const id = bosId ?? eosId;
    if (id !== undefined) return id;
    throw new UserError("A context is empty, and the tokenizer has no token to begin a text with");
  }
}

/**
 * Encodes the questions of a task.
 *
 * @param pause Called now and then; what it throws ends the work.
 * @throws {UserError} If a request cannot be encoded.
 */
export async function prepareTask(
  tokenizer: RequestTokenizer,
  { questions, prepared }: Questions,
  { pause, maxLength, ...about }:
    & EncodeOptions
    & Pick<PreparedTask, "task" | "dataset" | "limit">
    & { pause?: () => Promise<void> },
): Promise<PreparedTask> {
  const { specialTokens } = about;
  const encoder = new RequestEncoder(tokenizer, { specialTokens, maxLength });
  const prompts: Prompt[][] = [];
  let truncated = 0;
  for (const [i, { requests }] of questions.entries()) {
    prompts.push(requests.map((request) => {
      const { isTruncated, ...prompt } = encoder.encode(request);
      if (isTruncated) truncated++;
      return prompt;
    }));
    if (i % 100 === 0) await pause?.();
  }
  return { ...about, prepared, questions, prompts, truncated };
}

export interface ZeroShotOptions {
  /** Tokens that go through a layer together. */
  batchTokens?: number;
  /** Called after each batch of each layer. */
  onProgress?(done: number, total: number): Promise<void>;
}

/**
 * Measures a model on tasks: which choices it gives the greatest log-likelihood. All tasks go through
 * the layers together.
 *
 * @throws {UserError} If the model cannot be read or its log-likelihoods are not numbers.
 */
export async function zeroShot(
  gpu: Gpu,
  model: ModelFiles,
  tasks: readonly PreparedTask[],
  options: ZeroShotOptions = {},
): Promise<ZeroShot[]> {
  const all = await logLikelihoods(gpu, model, tasks.flatMap(({ prompts }) => prompts), options);
  let first = 0;
  return tasks.map((prepared) => {
    const own = all.slice(first, first += prepared.questions.length);
    return scoreTask(prepared, own);
  });
}

/**
 * The accuracies that log-likelihoods amount to.
 *
 * @param logLikelihoods One for each choice of each question, in nats.
 */
export function scoreTask(
  { task, dataset, prepared, specialTokens, limit, questions, truncated }: PreparedTask,
  logLikelihoods: readonly (readonly number[])[],
): ZeroShot {
  const isRight = questions.map(({ gold }, i) => argmax(logLikelihoods[i]) === gold);
  const { mean: acc, standardError: accStderr } = meanOf(isRight);
  const isRightPerCharacter = questions.map(({ gold, lengths }, i) =>
    argmax(logLikelihoods[i].map((sum, choice) => sum / lengths[choice])) === gold
  );
  const { mean: accNorm, standardError: accNormStderr } = meanOf(isRightPerCharacter);
  return {
    task: task.name,
    version: task.version,
    dataset,
    prepared,
    specialTokens,
    questions: questions.length,
    ...(limit !== undefined && { limit }),
    truncated,
    acc,
    accStderr,
    ...(task.isNormalized && { accNorm, accNormStderr }),
  };
}

/** The first of the greatest values. */
function argmax(values: readonly number[]): number {
  return values.indexOf(Math.max(...values));
}

/** The mean of 0 and 1, and its standard error from the sample's deviation; 0 for a single value. */
function meanOf(hits: readonly boolean[]): { mean: number; standardError: number } {
  const n = hits.length;
  const mean = hits.filter(Boolean).length / n;
  const standardError = n > 1 ? Math.sqrt(mean * (1 - mean) / (n - 1)) : 0;
  return { mean, standardError };
}
