import type { Architecture, ArchitectureFamily } from "./architecture.ts";
import { Fields } from "./fields.ts";
import { cohere, cohere2 } from "./cohere.ts";
import { gemma2 } from "./gemma2.ts";
import { gemma3, gemma3Text } from "./gemma3.ts";
import { gptNeox } from "./gpt_neox.ts";
import { gptOss } from "./gpt_oss.ts";
import { granite } from "./granite.ts";
import { granitemoe } from "./granitemoe.ts";
import { llama } from "./llama.ts";
import { mixtral } from "./mixtral.ts";
import { ministral } from "./ministral.ts";
import { mistral } from "./mistral.ts";
import { olmo2 } from "./olmo2.ts";
import { olmo3 } from "./olmo3.ts";
import { olmoe } from "./olmoe.ts";
import { opt } from "./opt.ts";
import { phi3 } from "./phi3.ts";
import { qwen2 } from "./qwen2.ts";
import { qwen3Moe } from "./qwen3_moe.ts";
import { qwen3 } from "./qwen3.ts";
import { smollm3 } from "./smollm3.ts";
import { specialOf } from "./unsupported.ts";
import { stablelm } from "./stablelm.ts";
import { starcoder2 } from "./starcoder2.ts";

const table: Record<string, ArchitectureFamily> = {
	cohere,
	cohere2,
	gemma2,
	gemma3,
	gemma3_text: gemma3Text,
	gpt_neox: gptNeox,
	gpt_oss: gptOss,
	granite,
	granitemoe,
	llama,
	ministral,
	mistral,
	mixtral,
	olmo2,
	olmo3,
	olmoe,
	opt,
	phi3,
	qwen2,
	qwen3,
	qwen3_moe: qwen3Moe,
	smollm3,
	stablelm,
	starcoder2,
};

/**
 * The supported families by `model_type`. A new family is a file in this folder and a line in this
 * table.
 */
export const ARCHITECTURES: Readonly<Record<string, ArchitectureFamily>> = table;

/**
 * Registers a custom family: its models can be quantized, packed, evaluated and run.
 *
 * @returns A handle that unregisters the family when it is disposed.
 * @throws {Error} If the model type is registered already.
 */
export function addArchitecture(modelType: string, family: ArchitectureFamily): Disposable {
	if (Object.hasOwn(table, modelType)) throw new Error(`There is a "${modelType}" already`);
	table[modelType] = family;
	return { [Symbol.dispose]: () => void delete table[modelType] };
}

/**
 * Reads the architecture from a config.json, in its current form (`rope_parameters`) or the older one
 * (`rope_theta`, `rope_scaling`).
 *
 * @param file The file's path, for messages.
 * @throws {UserError} If the model type is unknown or a field is missing, invalid or not supported.
 */
export function readArchitecture(config: Record<string, unknown>, file: string): Architecture {
	const fields = new Fields(config, file);
	const modelType = config.model_type;
	if (typeof modelType !== "string" || !Object.hasOwn(table, modelType)) {
		const known = Object.keys(table).sort().join(", ");
		return fields.fail("model_type", `a supported one (${known})`, specialOf(config));
	}
	return { modelType, ...table[modelType].read(fields) };
}
