import { PipelineFileError } from "../pipeline/config/errors.ts";
import type { PipelineConfig } from "../pipeline/config/config.ts";
import type { Stage } from "../pipeline/stage.ts";

/**
 * Refuses chains whose run would be wasted: what they compute goes nowhere. Custom stages may do anything,
 * so that a chain with one counts as useful where it could be.
 *
 * @throws {PipelineFileError} With all problems.
 */
export function checkPurpose({ stages, file }: PipelineConfig<Stage>): void {
	const problems: PipelineFileError["problems"] = [];
	const refuse = (place: { where: string } | undefined, message: string) =>
		problems.push({ where: place?.where ?? file, message });
	const gives = (artifact: string) => (planned: typeof stages[number]) =>
		planned.stage.gives.includes(artifact);
	const written = stages.filter(({ implied }) => !implied);
	const isCustom = written.some(({ module }) => module !== undefined);
	const method = stages.findIndex(gives("block-error"));
	const inMethod = written.find(({ stage }) => stage.scope === "linear" || stage.scope === "block");
	const pack = stages.findIndex(gives("packed-model"));
	const measures = stages.findIndex(gives("evaluation"));
	if (pack >= 0 && !isCustom && (method < 0 || method > pack)) {
		const remedy = inMethod
			? `put ${inMethod.stage.name} before it`
			: "put a stage that quantizes before it, such as trellis or gptq, or take a recipe";
		refuse(stages[pack], `Stage "pack" has nothing to pack; ${remedy}`);
	}
	if (pack < 0 && method >= 0 && !isCustom) {
		const { name } = inMethod!.stage;
		refuse(inMethod, `No stage stores what "${name}" quantizes; put pack after it`);
	}
	if (measures >= 0) {
		const { stage: { name }, options: { original } } = stages[measures];
		if (pack > measures) {
			refuse(
				stages[measures],
				`Stage "${name}" would measure nothing of what pack stores; put it last`,
			);
		} else if (pack < 0 && original === false && !isCustom) {
			const message =
				`Stage "${name}" has nothing to measure: no stage packs a model, and original ` +
				"is false; add the stages of a method, or leave original out";
			refuse(stages[measures], message);
		}
	}
	if (written.length > 1 && !isCustom && pack < 0 && measures < 0 && method < 0) {
		const message =
			"The chain neither quantizes nor measures anything; add a method with pack, or " +
			"evaluate, or take a recipe";
		refuse(written.at(-1), message);
	}
	if (problems.length > 0) throw new PipelineFileError(problems);
}
