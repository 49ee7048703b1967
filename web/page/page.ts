/** The page: what the user does goes to the worker, what the worker says is shown. */

import { UserError } from "../../base/errors.ts";
import { bytesText, timeText } from "../../base/units.ts";
import { browserProblem } from "../browser_problem.ts";
import { parseSource } from "../model_source.ts";
import type { StoredModel } from "../model_store.ts";
import { Conversation, type Mode } from "./conversation.ts";
import { type ChosenFolder, filesOfDrop, filesOfInput, modelAmong } from "./dropped_files.ts";
import { byId, make, setText, show } from "./elements.ts";
import type { Answer, Loaded, ModelPlace, Question } from "./protocol.ts";
import { readSettings, settingsProblem } from "./settings.ts";

/** What goes on. */
let state: "blocked" | "empty" | "loading" | "ready" | "writing" = "empty";
let model: Loaded | undefined;
/** When the first token came; milliseconds. */
let first = 0;

const conversation = new Conversation();
const address = byId<HTMLInputElement>("address");
const prompt = byId<HTMLTextAreaElement>("prompt");

const worker = new Worker("worker.js", { type: "module" });
worker.addEventListener("message", ({ data }: MessageEvent<Answer>) => hear(data));
worker.addEventListener("error", ({ message }) => {
	const reason = message ?? "its worker cannot be loaded";
	setText("problem", `The program has failed: ${reason}. Reload the page.`);
	enter(model ? "ready" : "empty");
});

function ask(question: Question): void {
	worker.postMessage(question);
}

/** Shows what can be done in a state. */
function enter(next: typeof state): void {
	state = next;
	const isLoading = state === "loading";
	const isBlocked = isLoading || state === "blocked";
	byId<HTMLButtonElement>("load").disabled = isBlocked;
	byId<HTMLInputElement>("folder").disabled = isBlocked;
	for (const button of byId("stored").querySelectorAll("button")) button.disabled = isLoading;
	show("progress-part", isLoading);
	show("text-part", model !== undefined);
	show("facts", model !== undefined);
	byId<HTMLButtonElement>("send").disabled = state !== "ready";
	byId<HTMLButtonElement>("clear").disabled = state !== "ready";
	show("stop", state === "writing");
}

function hear(answer: Answer): void {
	switch (answer.type) {
		case "models":
			return showStored(answer.models);
		case "progress":
			return showProgress(answer);
		case "notice":
			return setText(
				"notice",
				[byId("notice").textContent, answer.text].filter(Boolean).join("\n"),
			);
		case "loaded":
			return showLoaded(answer.model);
		case "unloaded":
			model = undefined;
			return enter(state === "loading" ? "loading" : "empty");
		case "text":
			first ||= performance.now();
			conversation.add(answer.text);
			return setText("speed", speedText(answer.tokens - 1, (performance.now() - first) / 1000));
		case "end":
			return showEnd(answer);
		case "failed":
			return showFailure(answer);
	}
}

function load(place: ModelPlace): void {
	for (const id of ["problem", "notice", "text-problem", "speed"]) setText(id, "");
	showProgress({ text: "Asking for the files" });
	enter("loading");
	// Without it, the browser may remove models when the disk is full; it may refuse.
	void navigator.storage?.persist?.();
	ask({ type: "load", from: place });
}

function showProgress(
	{ text, done, total }: { text: string; done?: number; total?: number },
): void {
	const bar = byId<HTMLProgressElement>("progress");
	if (done !== undefined && total) [bar.max, bar.value] = [total, done];
	else bar.removeAttribute("value");
	const isDownload = text.startsWith("Downloading");
	const amount = !isDownload || done === undefined
		? ""
		: `: ${bytesText(done)}${total ? ` of ${bytesText(total)}` : ""}`;
	setText("progress-text", text + amount);
}

function showLoaded(loaded: Loaded): void {
	model = loaded;
	const { name, adapter, isSoftware, hasSubgroups, gpuBytes, maxLength, hasChat, seconds } = loaded;
	const remarks = [
		...(isSoftware ? ["computes on the CPU, slowly"] : []),
		...(hasSubgroups ? [] : ["without subgroups, so slower"]),
	];
	const facts = {
		"Model": name,
		"GPU": [adapter || "not named by the browser", ...remarks].join("; "),
		"GPU memory": bytesText(gpuBytes),
		"Longest text": `${maxLength} tokens`,
		"Loaded in": timeText(seconds),
	};
	byId("facts").replaceChildren(
		...Object.entries(facts).flatMap((
			[name, value],
		) => [make("dt", {}, name), make("dd", {}, value)]),
	);
	for (const button of document.querySelectorAll<HTMLInputElement>("[name=mode]")) {
		button.disabled = button.value === "chat" && !hasChat;
		button.checked = button.value === (hasChat ? "chat" : "completion");
	}
	show("no-chat", !hasChat);
	conversation.clear();
	labelPrompt();
	enter("ready");
	prompt.focus();
}

function showEnd({ end, gpuBytes }: Answer & { type: "end" }): void {
	conversation.end();
	const reasons = {
		"stop-token": "ended by the model",
		"max-tokens": "stopped at the maximum of tokens",
		"max-length": "stopped at the longest text of the model",
		"interrupted": "stopped",
	};
	const { promptTokens, reusedTokens, promptSeconds, tokens, seconds, reason } = end;
	const run = promptTokens - reusedTokens;
	const rate = promptSeconds > 0 ? ` at ${(run / promptSeconds).toFixed(1)}/s` : "";
	const reused = reusedTokens > 0 ? ` after ${reusedTokens} of the last text` : "";
	setText(
		"speed",
		`${run} prompt tokens${reused}${rate}; ${speedText(tokens - 1, seconds, tokens)}; ` +
			`${bytesText(gpuBytes)} of GPU memory; ${reasons[reason]}`,
	);
	enter("ready");
}

/** @param later Tokens after the first one, which belongs to the prompt. */
function speedText(later: number, seconds: number, tokens = later + 1): string {
	const rate = later > 0 && seconds > 0 ? ` at ${(later / seconds).toFixed(1)} tokens/s` : "";
	return `${tokens} generated${rate}`;
}

function showFailure({ what, text }: Answer & { type: "failed" }): void {
	if (what === "generate") {
		prompt.value = conversation.takeBack();
		setText("text-problem", text);
		setText("speed", "");
		return enter(model ? "ready" : "empty");
	}
	setText("problem", text);
	if (what === "load") enter(model ? "ready" : "empty");
}

function showStored(models: readonly StoredModel[]): void {
	show("stored-part", models.length > 0);
	byId("stored").replaceChildren(
		...models.map(({ key, name, source, bytes, total, isComplete }) => {
			const size = isComplete || total === undefined
				? bytesText(bytes)
				: `${bytesText(bytes)} of ${bytesText(total)}`;
			const isBusy = state === "loading";
			const button = (text: string, onclick: () => void) =>
				make(
					"button",
					{ type: "button", disabled: isBusy, ariaLabel: `${text} ${name}`, onclick },
					text,
				);
			return make(
				"li",
				{},
				make("span", { title: source.url }, `${name}, ${size}${isComplete ? "" : ", incomplete"}`),
				button(isComplete ? "Load" : "Resume", () => load({ source })),
				button("Remove", () => {
					setText("problem", "");
					ask({ type: "remove", key });
				}),
			);
		}),
	);
}

byId("source").addEventListener("submit", (event) => {
	event.preventDefault();
	try {
		load({ source: parseSource(address.value, location.href) });
	} catch (error) {
		if (!(error instanceof UserError)) throw error;
		setText("problem", error.message);
	}
});

function loadChosen(found: ChosenFolder | string): void {
	if (typeof found === "string") setText("problem", found);
	else load(found);
}

byId<HTMLInputElement>("folder").addEventListener("change", ({ currentTarget }) => {
	const input = currentTarget as HTMLInputElement;
	loadChosen(modelAmong(filesOfInput(input)));
	input.value = ""; // so that the same folder can be chosen again
});

const drop = byId("drop");
document.addEventListener("dragover", (event) => {
	event.preventDefault(); // else the browser would open the files
	drop.classList.add("over");
});
document.addEventListener("dragleave", ({ relatedTarget }) => {
	if (!relatedTarget) drop.classList.remove("over");
});
document.addEventListener("drop", async (event) => {
	event.preventDefault();
	drop.classList.remove("over");
	if (state !== "loading" && state !== "blocked" && event.dataTransfer) {
		loadChosen(modelAmong(await filesOfDrop(event.dataTransfer)));
	}
});

byId("cancel").addEventListener("click", () => ask({ type: "cancel" }));

function mode(): Mode {
	return document.querySelector<HTMLInputElement>("[name=mode]:checked")!.value as Mode;
}

function labelPrompt(): void {
	setText("prompt-label", mode() === "chat" ? "Message" : "Beginning of the text");
}

for (const button of document.querySelectorAll("[name=mode]")) {
	button.addEventListener("change", labelPrompt);
}

byId("prompt-form").addEventListener("submit", (event) => {
	event.preventDefault();
	if (state !== "ready") return;
	const problem = settingsProblem();
	setText("text-problem", problem ?? "");
	if (problem) return;
	const { options, system } = readSettings();
	const input = conversation.begin(mode(), prompt.value, system);
	prompt.value = "";
	setText("speed", "Reading the prompt");
	first = 0;
	enter("writing");
	ask({ type: "generate", input, options });
});

prompt.addEventListener("keydown", (event) => {
	if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
	event.preventDefault();
	byId<HTMLFormElement>("prompt-form").requestSubmit();
});

document.addEventListener("keydown", ({ key }) => {
	if (key === "Escape" && state === "writing") ask({ type: "stop" });
});

byId("stop").addEventListener("click", () => ask({ type: "stop" }));

byId("clear").addEventListener("click", () => {
	conversation.clear();
	setText("speed", "");
	prompt.focus();
});

/** Fills in the model that the address names, or else the one that the server of the page has. */
async function suggest(): Promise<void> {
	const named = new URL(location.href).searchParams.get("model");
	if (named) return void (address.value = named);
	const site = await fetch("site.json").then((response) => response.json()).catch(() => undefined);
	if (typeof site?.model === "string" && address.value === "") address.value = site.model;
}

async function start(): Promise<void> {
	enter("empty");
	const problem = await browserProblem();
	if (problem) {
		setText("problem", `${problem.problem} ${problem.remedy}`);
		return enter("blocked");
	}
	ask({ type: "list" });
	await suggest();
	await navigator.serviceWorker?.register("service_worker.js").catch(() => {}); // only offline use needs it
}

await start();
