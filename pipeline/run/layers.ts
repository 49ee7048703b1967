import { basename, join } from "node:path";
import { DenseWeight } from "../../codecs/dense/weight.ts";
import { type QuantizationConfig, rotationConfigOf } from "../../codecs/quantization_config.ts";
import { undoTransform } from "../../gpu/kernels/rotation/rotate.ts";
import { outputErrorParts, relativeError } from "../../gpu/kernels/reduce/output_error.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { Activations } from "../../models/activations.ts";
import { type Calibration, paceBatches } from "../../models/calibration.ts";
import { Decoder } from "../../models/decoder.ts";
import { LayerPlan, totalWidth } from "../../models/layer_plan.ts";
import { cloneLayer, type LayerWeights, replaceMatrix } from "../../models/layer_weights.ts";
import { expertsTogether } from "../../models/memory_plan.ts";
import type { Registers } from "../../models/registers.ts";
import { Checkpoint } from "../../storage/checkpoint.ts";
import { denoFile } from "../../storage/deno_folder.ts";
import type { PlannedStage } from "../config/config.ts";
import type { GroupContext, GroupStage, LinearLayer, ModelContext, Stage } from "../stage.ts";
import { access, ArtifactStore } from "./artifacts.ts";
import { bundles, type Group, showInput } from "./groups.ts";
import { ExpertCounts, isStarved, showExperts } from "./expert_inputs.ts";
import type { LayerRecord, LinearRecord } from "./events.ts";
import { isInLinear, quantizeLinear } from "./quantize_linear.ts";
import type { Planned, StageClock } from "./run.ts";
import { scaleLinears } from "./scale_linears.ts";

/** The calibration data on their way through a decoder layer, quantized so far or original. */
interface Stream {
	activations: Activations;
	weights: LayerWeights<DenseWeight>;
	/** The stage to which the time is attributed. */
	stage: string;
}

/**
 * Runs the inner stages on each group of linear layers of the decoder layers, and passes the calibration
 * data, if a stage needs them, through the layers.
 *
 * The host runs ahead of the GPU: it waits once per linear layer and per several batches. While the inputs of
 * a layer's last group are computed, it uploads the weights of the next layer; while the last batches leave
 * the layer, it writes the file of that layer.
 *
 * If a stage wants it, the data also pass through the original model, in a second stream.
 *
 * @param onPeak Called with the peak GPU memory of each layer in bytes.
 */
export async function quantizeLayers(
	context: ModelContext,
	artifacts: ArtifactStore,
	stages: readonly PlannedStage<Stage>[],
	clock: StageClock,
	onPeak: (bytes: number) => void,
): Promise<void> {
	const model = context.get("model-files");
	const isCalibrated = context.isNeeded("calibration") ||
		stages.some(({ stage }) => "observe" in stage || "transform" in stage);
	const calibration = isCalibrated ? context.find("calibration") : undefined;
	using decoder = new Decoder(context.gpu, model);
	const run = new LayerRun(context, artifacts, stages, clock, decoder, calibration);
	const { layers } = model.architecture;
	const complete = context.layerRecords.length;
	let secondsBefore = await clock.seconds();
	for (let index = 0; index < layers; index++) {
		const start = performance.now();
		context.gpu.resetPeak();
		run.progress(index, 0, index < complete ? ", already quantized" : "");
		if (index < complete) {
			await run.passThrough(index, context.layerRecords[index].file);
			await run.checkRange(index);
			secondsBefore = await clock.seconds();
		} else {
			const { linears, file } = await run.quantize(index, layers);
			await run.checkRange(index);
			const peakGpuBytes = context.gpu.memory.peak;
			onPeak(peakGpuBytes);
			const seconds = (performance.now() - start) / 1000;
			const secondsNow = await clock.seconds();
			const secondsByStage = difference(secondsNow, secondsBefore);
			secondsBefore = secondsNow;
			const record: LayerRecord = {
				layer: index,
				seconds,
				secondsByStage,
				peakGpuBytes,
				peakGpuBytesByStage: clock.peakBytes,
				...file,
				linears,
			};
			context.folder.saveLayer(record);
			context.layerRecords.push(record);
			context.emit({ type: "layer", layers, ...record });
		}
	}
	context.gpu.trim();
}

/** The increase of each figure. */
function difference(
	now: Record<string, number>,
	before: Record<string, number>,
): Record<string, number> {
	const changes = Object.entries(now).map(([name, value]) => [name, value - (before[name] ?? 0)]);
	return Object.fromEntries(changes.filter(([, change]) => change !== 0));
}

class LayerRun {
	/** The tokens that the experts of the decoder layer get, by the register that tells them. */
	readonly #counts = new Map<string, ExpertCounts>();
	readonly #groupStages: Planned<GroupStage>[];
	/** Index of the first stage that runs on each linear layer. */
	readonly #firstInLinear: number;
	/** The linear layers of each decoder layer, in the order of execution. */
	readonly #modules: string[][];

	constructor(
		readonly context: ModelContext,
		readonly artifacts: ArtifactStore,
		readonly stages: readonly PlannedStage<Stage>[],
		readonly clock: StageClock,
		readonly decoder: Decoder,
		/** Absent if no stage needs it. */
		readonly calibration: Calibration | undefined,
	) {
		this.#groupStages = stages.filter(({ stage }) => !isInLinear(stage)) as Planned<GroupStage>[];
		const first = stages.findIndex(({ stage }) => isInLinear(stage));
		this.#firstInLinear = first < 0 ? stages.length : first;
		const { architecture } = decoder;
		this.#modules = Array.from(
			{ length: architecture.layers },
			(_, layer) => new LayerPlan(architecture, layer).modules,
		);
	}

	/** @throws {UserError} If activations exceed the range of their type. */
	async checkRange(index: number): Promise<void> {
		await this.calibration?.activations.checkRange(this.#layerName(index));
		await this.calibration?.original?.checkRange(this.#layerName(index));
	}

	/** Emits the progress: the number of finished linear layers. */
	progress(index: number, linears: number, what: string): void {
		this.context.emit({
			type: "progress",
			stage: "layers",
			done: this.#modules.slice(0, index).flat().length + linears,
			total: this.#modules.flat().length,
			text: `layer ${index + 1}${what}`,
		});
	}

	/** Passes the activations through a layer that an earlier run has packed. */
	async passThrough(index: number, file: string): Promise<void> {
		if (!this.calibration) return;
		const { model } = this.decoder;
		using checkpoint = Checkpoint.openFile(
			denoFile(join(this.context.folder.model, basename(file))),
		);
		using decoder = new Decoder(
			this.context.gpu,
			model.withWeights(checkpoint, this.#packedConfig(this.context.layerRecords[index].linears)),
		);
		const pass = async (which: "quantized" | "original", through: Decoder) => {
			const weights = await through.loadLayer(index);
			await this.#finishLayer([this.#stream(which, weights)]);
			await this.context.gpu.idle();
			weights[Symbol.dispose]();
		};
		if (this.calibration.original) await pass("original", this.decoder);
		await pass("quantized", decoder);
	}

	#packedConfig(linears: readonly LinearRecord[]): QuantizationConfig {
		const { model } = this.decoder;
		const rotation = rotationConfigOf(
			linears.map(({ name, rotation, dense }) => ({ name, module: name, rotation, dense })),
		);
		return model.packedConfig(this.context.blockSize, undefined, undefined, rotation);
	}

	/** Quantizes a layer and passes the activations through it. */
	async quantize(
		index: number,
		count: number,
	): Promise<{ linears: LinearRecord[]; file: Pick<LayerRecord, "file" | "bytes" | "sha256"> }> {
		const { gpu } = this.context;
		const weights = await this.decoder.loadLayer(index);
		const groups = weights.plan.groups.map((group) => this.#group(weights, group, count));
		const streams: Stream[] = [];
		this.#counts.clear();
		if (this.calibration?.order === "layer") {
			// Every group sees the original layer; the quantized layer produces the input of the next one.
			await this.#observeAll(weights, groups);
			for (const group of groups) await this.#quantizeGroup(weights, group);
		} else {
			// Stages may change the weights in place.
			if (this.calibration?.original) streams.push(this.#stream("original", cloneLayer(weights)));
			const mostOf = (cols: number) => expertsTogether(cols, streams.length > 0);
			for (const together of bundles(groups, mostOf)) {
				if (this.calibration) {
					const isLast = together.at(-1) === groups.at(-1);
					await this.#observe(this.#stream("quantized", weights), together, isLast, streams[0]);
				}
				for (const group of together) await this.#quantizeGroup(weights, group);
			}
		}
		for (const pool of new Set(groups.map(({ pool }) => pool))) pool?.store[Symbol.dispose]();
		if (this.calibration) streams.push(this.#stream("quantized", weights));
		let file = { file: "", bytes: 0, sha256: "" };
		await this.#finishLayer(streams, async () => {
			const linears = groups.flatMap((group) => group.context.linears);
			for (const { stage, options } of this.#groupStages) {
				if (!stage.endLayer) continue;
				const context = { ...this.context, layer: { index, count } };
				file = await this.clock.host(stage.name, () => stage.endLayer!(context, options, linears));
			}
		});
		await gpu.idle();
		for (const stream of streams) stream.weights[Symbol.dispose]();
		weights[Symbol.dispose](); // including the quantized ones
		return { linears: await this.#records(groups), file };
	}

	#group(
		weights: LayerWeights<DenseWeight>,
		{ at, from, cols, expert, linears: wanted }: LayerPlan["groups"][number],
		count: number,
	): Group {
		const { gpu } = this.context;
		const layer = { index: weights.layer, count };
		const prefix = this.decoder.architecture.names.layer(weights.layer);
		const store = new ArtifactStore(this.artifacts);
		const linears = wanted.map(({ module }): LinearLayer => {
			const { matrix, rows, cols } = weights.linear(module).weight;
			// There are many experts: their linear layers have memory once it is their turn.
			const own = expert
				? { weight: matrix, quantized: matrix }
				: { weight: gpu.clone(matrix), quantized: gpu.empty([rows, cols]) };
			return { name: prefix + module, module, rows, cols, original: matrix, ...own };
		});
		const context: GroupContext = { ...this.context, ...access(store), layer, linears };
		const restarts = weights.plan.restartsOf(at);
		return {
			at,
			from,
			cols,
			...(expert && { expert }),
			restarts,
			nearWidth: totalWidth(weights.plan.live[restarts.near]),
			context,
			store,
			errors: [],
		};
	}

	#stream(which: "quantized" | "original", weights: LayerWeights<DenseWeight>): Stream {
		const { activations, original } = this.calibration!;
		return which === "quantized"
			? { activations, weights, stage: "calibrate" }
			: { activations: original!, weights, stage: this.context.originalFor! };
	}

	/**
	 * Lets the stages observe the inputs of all groups, in one pass through the original layer, which takes
	 * the original stream to the next one.
	 */
	async #observeAll(weights: LayerWeights<DenseWeight>, groups: readonly Group[]): Promise<void> {
		const quantized = this.#stream("quantized", weights);
		const original = this.calibration!.original && this.#stream("original", weights);
		const all = bundles(groups, () => Infinity);
		for (const together of all) await this.#countTokens(quantized, together);
		for (let batch = 0; batch < quantized.activations.batches; batch++) {
			const registers = await quantized.activations.load(batch);
			// Before the first layer the streams are equal.
			const others = original && weights.layer > 0
				? await original.activations.load(batch)
				: registers;
			let from = 0;
			for (const together of all) {
				const [{ at }] = together;
				await this.#run(quantized, registers, from, at);
				if (others !== registers) await this.#run(original!, others, from, at);
				await this.#show(batch, together, registers, original && others);
				from = at;
			}
			if (others !== registers) this.context.gpu.free(...registers.values());
			if (original) {
				await this.#run(original, others, from);
				await original.activations.keep(batch, 0, others);
			} else {
				this.context.gpu.free(...others.values());
			}
			this.#prefetch(weights.layer + 1, batch);
			await this.#pace(batch);
		}
	}

	/** Uploads the weights of the next layer, if any, while the GPU works on the last batches of a pass. */
	#prefetch(layer: number, batch: number): void {
		if (batch + 1 < this.calibration!.activations.batches || layer === this.#modules.length) return;
		this.context.gpu.flush();
		this.decoder.prefetchLayer(layer);
	}

	/**
	 * Counts the tokens of the experts of some groups, and lets those that get too few share the artifacts of
	 * all experts.
	 *
	 * @param groups With the same operation.
	 */
	async #countTokens(stream: Stream, groups: readonly Group[]): Promise<void> {
		const [{ at, expert, context, cols }] = groups;
		if (!expert) return;
		const { gpu } = this.context;
		const { activations, order, batches, length } = this.calibration!;
		let counts = this.#counts.get(expert.routing);
		if (!counts) {
			using found = new ExpertCounts(gpu, activations.batches, expert.of);
			for (let batch = 0; batch < activations.batches; batch++) {
				let registers: Registers;
				if (order === "module") registers = await this.#reach(stream, batch, groups[0]);
				else {
					registers = await activations.load(batch);
					await this.#run(stream, registers, 0, at);
				}
				await found.count(batch, registers.get(expert.routing)!);
				gpu.free(...registers.values());
				await this.#pace(batch);
			}
			await found.read();
			this.#counts.set(expert.routing, counts = found);
		}
		const tokens = batches.flat().length * length;
		for (const group of groups) group.tokens = counts.total(group.expert!.index);
		const starved = groups.filter((group) => isStarved(group.tokens!, cols, tokens));
		if (starved.length === 0) return;
		const store = new ArtifactStore(this.artifacts);
		const pool = { store, context: { ...context, ...access(store) } };
		for (const group of starved) {
			group.pool = pool;
			group.store.parent = store;
		}
	}

	/**
	 * Lets the stages observe the input of one group, or of several experts; earlier groups are already
	 * quantized.
	 *
	 * @param isLast Whether they are the last of the layer: the weights of the next one are then uploaded.
	 * @param original The stream through the original layer, if a stage wants it.
	 */
	async #observe(
		quantized: Stream,
		groups: readonly Group[],
		isLast: boolean,
		original?: Stream,
	): Promise<void> {
		const { gpu } = this.context;
		const { layer, plan } = quantized.weights;
		const [group] = groups;
		await this.#countTokens(quantized, groups);
		// Up to here nothing is quantized.
		const areEqual = layer === 0 && group.at === plan.groups[0].at;
		const streams = original && !areEqual ? [original, quantized] : [quantized];
		for (let batch = 0; batch < quantized.activations.batches; batch++) {
			let others: Registers | undefined;
			if (original && !areEqual) {
				others = await this.#reach(original, batch, group);
				for (const [register, tensor] of others) {
					if (register === group.from || register === group.expert?.routing) continue;
					others.delete(register);
					gpu.free(tensor);
				}
			}
			const registers = await this.#reach(quantized, batch, group);
			await this.#show(batch, groups, registers, original && (others ?? registers));
			gpu.free(...registers.values(), ...others?.values() ?? []);
			if (isLast) this.#prefetch(layer + 1, batch);
			await this.#pace(batch);
		}
		for (const { activations } of streams) {
			await activations.checkRange(this.#layerName(layer));
		}
		streams.forEach((stream) => this.#freePassed(stream));
	}

	/** Keeps a batch on the way to a group and takes it to the group's input. */
	async #reach(stream: Stream, batch: number, group: Group): Promise<Registers> {
		const { activations } = stream;
		let registers = await activations.load(batch);
		const before = activations.at(batch);
		const restart = this.#restartOf(activations, batch, group);
		if (restart > before) {
			await this.#run(stream, registers, before, restart, true);
			await activations.keep(batch, restart, registers);
			registers = await activations.load(batch);
		}
		await this.#run(stream, registers, restart, group.at);
		return registers;
	}

	#layerName(index: number): string {
		return `layer ${index + 1} of "${this.decoder.model.name}"`;
	}

	/** The operation before which to keep a batch: near the group if there is room, else where it is smallest. */
	#restartOf(activations: Activations, batch: number, { restarts, nearWidth }: Group): number {
		const { batches, length } = this.calibration!;
		const elements = nearWidth * batches[batch].length * length;
		const restart = activations.hasRoomFor(batch, elements) ? restarts.near : restarts.lean;
		return Math.max(restart, activations.at(batch));
	}

	/** Frees the linear layers that no batch needs again. */
	#freePassed({ activations, weights }: Stream): void {
		const passed = Math.min(
			...Array.from({ length: activations.batches }, (_, batch) => activations.at(batch)),
		);
		weights.deleteBefore(passed);
	}

	/** @param isKept Whether the registers will be kept, and so rounded, before operation `to`. */
	async #run(
		{ activations, weights, stage }: Stream,
		registers: Registers,
		from: number,
		to = weights.plan.ops.length,
		isKept = false,
	): Promise<void> {
		const { length } = this.calibration!;
		await this.clock.queue(stage, async () => {
			let start = from;
			for (const stop of this.#roundings(weights.plan)) {
				if (stop <= from || stop > to || (stop === to && isKept)) continue;
				await this.decoder.run(weights, registers, length, start, stop);
				await activations.round(registers);
				start = stop;
			}
			await this.decoder.run(weights, registers, length, start, to);
		});
	}

	/**
	 * Operations before which activations are kept if there is room. Otherwise they are rounded in the same
	 * way, so that the result does not depend on the available memory.
	 */
	#roundings(plan: LayerPlan): number[] {
		if (this.calibration?.order !== "module") return [];
		return plan.groups.map(({ at }) => plan.restartsOf(at).near);
	}

	/**
	 * Shows stages the input of one group, or those of several experts, in a batch.
	 *
	 * @param others The registers of the original model, if a stage wants them.
	 */
	async #show(
		batch: number,
		groups: readonly Group[],
		registers: Registers,
		others?: Registers,
	): Promise<void> {
		const { clock } = this;
		const show = ({ context }: { context: GroupContext }, input: Tensor, original?: Tensor) =>
			showInput(
				context,
				this.#groupStages,
				input,
				original,
				(stage, work) => clock.queue(stage, work),
			);
		const [group] = groups;
		if (!group.expert) {
			return await show(group, registers.get(group.from)!, others?.get(group.from));
		}
		const counts = this.#counts.get(group.expert.routing)!;
		const own = groups.filter(({ pool }) => !pool);
		const pool = groups.find(({ pool }) => pool)?.pool;
		await showExperts(
			this.context.gpu,
			counts.of(batch),
			{ ...group, expert: group.expert },
			own.map((one) => ({ ...one, expert: one.expert! })),
			{ registers, others },
			show,
			pool && ((input, original) => show(pool, input, original)),
		);
	}

	async #pace(batch: number): Promise<void> {
		await paceBatches(this.context.gpu, batch + 1);
		await this.context.pause();
	}

	/** Runs the stages on a group and replaces its weights by the quantized ones. */
	async #quantizeGroup(weights: LayerWeights<DenseWeight>, group: Group): Promise<void> {
		const { context, store } = group;
		const { gpu } = context;
		if (group.expert) {
			for (const linear of context.linears) {
				linear.weight = gpu.clone(linear.original);
				linear.quantized = gpu.empty([linear.rows, linear.cols]);
			}
		}
		const runStages = async (stages: readonly PlannedStage<Stage>[], waits: boolean) => {
			for (const { stage, options } of stages.filter(({ stage }) => !isInLinear(stage))) {
				const run = () => (stage as GroupStage).run(context, options);
				await (waits ? this.clock.time(stage.name, run) : this.clock.queue(stage.name, run));
			}
		};
		await scaleLinears(context);
		await runStages(this.stages.slice(0, this.#firstInLinear), false);
		for (const linear of context.linears) {
			this.progress(
				context.layer.index,
				this.#modules[context.layer.index].indexOf(linear.module),
				`, ${linear.module}`,
			);
			await quantizeLinear(context, store, linear, this.stages, this.clock);
			await gpu.idle();
			await this.context.pause();
		}
		await runStages(this.stages.slice(this.#firstInLinear), true);
		const hessian = store.find("hessian");
		for (const linear of context.linears) {
			const { module, original, weight, quantized, draft, packed, transform, isSkipped } = linear;
			if (isSkipped) {
				// Earlier stages may have changed it in place.
				const plain = await this.decoder.loadLinear(context.layer.index, module);
				replaceMatrix(weights, module, plain.matrix);
				gpu.free(original, weight, quantized);
				continue;
			}
			if (hessian && packed) {
				group.errors.push(
					await this.clock.queue(
						"output-error",
						() => outputErrorParts(gpu, original, quantized, hessian),
					),
				);
			}
			if (transform) await undoTransform(gpu, quantized, transform);
			replaceMatrix(weights, module, quantized);
			gpu.free(original, weight);
			draft?.[Symbol.dispose]();
		}
		store[Symbol.dispose]();
	}

	/**
	 * Passes streams to the end of the layer.
	 *
	 * @param meanwhile Host work that overlaps with the GPU.
	 */
	async #finishLayer(
		streams: readonly Stream[],
		meanwhile?: () => Promise<void>,
	): Promise<void> {
		const { gpu } = this.context;
		for (const stream of streams) {
			const { activations } = stream;
			for (let batch = 0; batch < activations.batches; batch++) {
				const registers = await activations.load(batch);
				await this.#run(stream, registers, activations.at(batch));
				await activations.keep(batch, 0, registers);
				if (gpu.software) await gpu.idle();
				await this.context.pause();
			}
		}
		gpu.flush();
		await meanwhile?.();
	}

	async #records(groups: readonly Group[]): Promise<LinearRecord[]> {
		const records: LinearRecord[] = [];
		for (const { context, expert, tokens, pool, errors } of groups) {
			for (const linear of context.linears) {
				const { name, rows, cols, stored, method, transform, correction } = linear;
				if (!stored) continue;
				using parts = linear.isSkipped ? undefined : errors.shift();
				const error = parts && await relativeError(parts);
				const record: LinearRecord = {
					name,
					rows,
					cols,
					...(method && { method }),
					...(linear.isSkipped ? { dense: true } : transform),
					...(Number.isFinite(correction) && !linear.isSkipped && { correction }),
					...(expert && tokens !== undefined && { tokens, ...(pool && { pooled: true as const }) }),
					...(Number.isFinite(error) && { relativeOutputError: error }), // not 0 / 0
					...stored,
				};
				records.push(record);
				this.context.emit({ type: "linear", ...record });
			}
		}
		return records;
	}
}
