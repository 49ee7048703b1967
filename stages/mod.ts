import type { Stage } from "../pipeline/stage.ts";
import { allocate } from "./allocate.ts";
import { arb } from "./arb.ts";
import { binarize } from "./binarize.ts";
import { calibrate } from "./calibrate.ts";
import { compensate } from "./compensate.ts";
import { download } from "./download.ts";
import { evaluate } from "./evaluate.ts";
import { exportStage } from "./export.ts";
import { gptq } from "./gptq.ts";
import { hbllm } from "./hbllm.ts";
import { hessian } from "./hessian.ts";
import { levels } from "./levels.ts";
import { pack } from "./pack.ts";
import { pbLlm } from "./pb_llm.ts";
import { propagateError } from "./propagate_error.ts";
import { refitNorm } from "./refit_norm.ts";
import { residualBinarize } from "./residual_binarize.ts";
import { rotate } from "./rotate.ts";
import { rowSearch } from "./row_search.ts";
import { rtn } from "./rtn.ts";
import { salientSelect } from "./salient_select.ts";
import { sign } from "./sign.ts";
import { splitSearch } from "./split_search.ts";
import { trellis } from "./trellis.ts";

export { RECIPES } from "./recipes.ts";

/** The built-in stages in their usual order, including implicit ones. */
export const STAGES: Stage[] = [
	download,
	calibrate,
	allocate,
	rotate,
	hessian,
	propagateError,
	salientSelect,
	residualBinarize,
	splitSearch,
	compensate,
	arb,
	hbllm,
	rowSearch,
	rtn,
	gptq,
	levels,
	pbLlm,
	sign,
	trellis,
	binarize,
	refitNorm,
	pack,
	exportStage,
	evaluate,
];
