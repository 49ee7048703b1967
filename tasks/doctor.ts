import { Gpu } from "../gpu/device.ts";
import { tuningFolder } from "../gpu/gemm_tuning.ts";
import { freeBytes } from "../hub/cache.ts";
import { DEFAULT_LIMITS } from "../hub/limits.ts";
import { HubSession } from "../hub/session.ts";
import { type HubSettings, hubSettings } from "../hub/settings.ts";
import { UserError } from "../pipeline/errors.ts";
import { bytesText } from "../pipeline/units.ts";
import { VERSION } from "../version.ts";
import { adapterAdvice, canWrite, lookAtMachine, type Machine } from "./machine.ts";
import { measureRates, productError } from "./measure.ts";
import { parseArguments, runTask, startInCallersFolder, usageErrors } from "./task.ts";

const HELP = `Usage: deno task doctor [--json]

Looks at what runs need: adapter, its features, limits, memory and speed, disk, hub, versions. Says
what to do about each finding. Takes some seconds.

Options
  --json   Print the findings as JSON
  --help   Print this

Exit codes: 0 ready (perhaps with warnings), 1 something must be repaired.
`;

/** Something found out about the machine. */
interface Finding {
  check: string;
  /** bad: nothing can run before it is repaired. warning: some things cannot, or not well. */
  state: "good" | "warning" | "bad";
  text: string;
  /** What to do about it, each a way of its own. */
  remedies?: string[];
  /** The figures in the text. */
  values?: Record<string, unknown>;
}

/** What the launcher asks for. */
const OLDEST_DENO = [2, 9];
/** Less than that is soon full: a model of seven billion weights has 13.5 GB, packed 3. */
const LITTLE_DISK = 5e9;
const MUCH_DISK = 20e9;
/** More than rounding in f32 can do to a product of 96 terms. */
const MAX_PRODUCT_ERROR = 1e-5;
/** As much as is asked for to find out how much there is. */
const MEMORY_TO_TRY = 256 * 2 ** 30;

const usageError = usageErrors("doctor");

await runTask(async (signal) => {
  const { values } = parseArguments(usageError, {
    options: { json: { type: "boolean" }, help: { type: "boolean", short: "h" } },
  });
  if (values.help) {
    console.log(HELP);
    return;
  }
  startInCallersFolder();
  const findings: Finding[] = [];
  const tell = (...found: Finding[]) => {
    findings.push(...found);
    if (!values.json) found.forEach((finding) => console.log(lineOf(finding)));
  };
  tell(versions());
  const machine = await lookAtMachine();
  await examineGpu(machine, tell);
  tell(...disks());
  tell(await hub(signal));

  const bad = findings.filter(({ state }) => state === "bad").length;
  if (values.json) console.log(JSON.stringify({ ready: bad === 0, findings }, null, 2));
  if (bad > 0) {
    throw new UserError(
      `${bad} finding${bad > 1 ? "s" : ""} must be repaired before anything runs`,
    );
  }
  if (!values.json) console.log("\nReady.");
}, "Nothing was changed.");

function lineOf({ check, state, text, remedies = [] }: Finding): string {
  const mark = { good: "ok  ", warning: "note", bad: "BAD " }[state];
  return [`${mark} ${check.padEnd(9)} ${text}`, ...remedies.map((way) => `      -> ${way}`)]
    .join("\n");
}

function versions(): Finding {
  const { deno, v8 } = Deno.version;
  const { os, arch } = Deno.build;
  const processors = navigator.hardwareConcurrency;
  const system = `${os} ${Deno.osRelease()} ${arch}, ${processors} processors`;
  const [major, minor] = deno.split(".").map(Number);
  const isOld = major < OLDEST_DENO[0] || (major === OLDEST_DENO[0] && minor < OLDEST_DENO[1]);
  return {
    check: "versions",
    state: isOld ? "bad" : "good",
    text: `billm ${VERSION}, Deno ${deno}, V8 ${v8}, ${system}`,
    ...(isOld && {
      remedies: [`Deno ${OLDEST_DENO.join(".")} or later is needed: deno upgrade, or use ./billm`],
    }),
    values: { billm: VERSION, deno, v8, os, release: Deno.osRelease(), arch, processors },
  };
}

async function examineGpu(machine: Machine, tell: (...found: Finding[]) => void): Promise<void> {
  let gpu: Gpu;
  try {
    gpu = await Gpu.open();
  } catch (error) {
    const remedies = adapterAdvice(machine);
    const text = error instanceof UserError
      ? "No WebGPU adapter was found"
      : `The adapter cannot be opened: ${(error as Error).message}`;
    tell({ check: "adapter", state: "bad", text, remedies });
    return;
  }
  await using _ = gpu;
  tell(adapter(gpu, machine), features(gpu), limits(gpu), await memory(gpu));
  try {
    tell(...await speed(gpu));
  } catch (error) {
    tell({
      check: "speed",
      state: "bad",
      text: `A kernel has failed: ${(error as Error).message}`,
      remedies: ["Update the GPU's driver, or try another adapter: gpu.adapter in a pipeline file"],
    });
  }
}

function adapter({ name, software }: Gpu, machine: Machine): Finding {
  const values = { name, software };
  if (!software) return { check: "adapter", state: "good", text: name, values };
  const idle = machine.devices.length > 0;
  return {
    check: "adapter",
    state: "warning",
    text: `${name}, which computes on the CPU: everything works, but slowly`,
    remedies: idle
      ? [
        `A GPU is there that is not used (${machine.devices.join(", ")})`,
        ...adapterAdvice(machine).filter((way) => !way.startsWith("Vulkan has drivers")),
      ]
      : ["With a GPU, install its Vulkan driver"],
    values,
  };
}

/** What kernels use where it is there, with what it means if it is not. */
const FEATURES: Record<string, string> = {
  "subgroups": "reductions and generation are slower",
  "f64": "Hessians that f32 cannot factor get more damping instead of f64",
  "timestamp-query": "the time of stages is taken with the clock, which waits for the GPU",
};

function features({ device, subgroupSize, f64 }: Gpu): Finding {
  const has: Record<string, boolean> = {
    "subgroups": subgroupSize > 0,
    f64,
    "timestamp-query": device.features.has("timestamp-query"),
  };
  const present = Object.keys(has).filter((name) => has[name])
    .map((name) => name === "subgroups" ? `subgroups of ${subgroupSize}` : name);
  const missing = Object.keys(has).filter((name) => !has[name])
    .map((name) => `without ${name}: ${FEATURES[name]}`);
  return {
    check: "features",
    state: "good",
    text: [present.join(", "), ...missing].filter((text) => text !== "").join("; "),
    values: { ...has, subgroupSize, all: [...device.features].sort() },
  };
}

function limits({ device, maxBinding }: Gpu): Finding {
  const { maxBufferSize, maxComputeWorkgroupStorageSize, maxComputeInvocationsPerWorkgroup } =
    device.limits;
  const largest = Math.min(maxBufferSize, maxBinding);
  const values = {
    maxBufferSize,
    maxStorageBufferBindingSize: maxBinding,
    maxComputeWorkgroupStorageSize,
    maxComputeInvocationsPerWorkgroup,
  };
  const text =
    `buffers of ${bytesText(largest)}, workgroups of ${maxComputeInvocationsPerWorkgroup}` +
    ` threads with ${bytesText(maxComputeWorkgroupStorageSize)}`;
  // The largest matrix of LLaMA-7B, in f32.
  if (largest >= 4096 * 11008 * 4) return { check: "limits", state: "good", text, values };
  return {
    check: "limits",
    state: "warning",
    text: `${text}: too little for the matrices of models of seven billion weights`,
    remedies: ["Use smaller models, or another adapter or driver"],
    values,
  };
}

async function memory(gpu: Gpu): Promise<Finding> {
  const { total, available } = Deno.systemMemoryInfo();
  const found = await gpu.memoryFor(MEMORY_TO_TRY);
  const shared = gpu.software || Deno.build.os === "darwin";
  const text =
    (shared
      ? `${bytesText(found)} for the adapter, of the machine's own`
      : `${bytesText(found)}${found >= MEMORY_TO_TRY ? " or more" : ""} free on the GPU`) +
    `; the machine has ${bytesText(total)}, ${bytesText(available)} of it free`;
  const values = { adapterBytes: found, totalBytes: total, availableBytes: available };
  if (found >= 4e9) return { check: "memory", state: "good", text, values };
  return {
    check: "memory",
    state: "warning",
    text,
    remedies: [
      "Close what else uses it, or set gpu.memory in the pipeline file to less than that, " +
      "such as gpu: { memory: 2GB }",
    ],
    values,
  };
}

async function speed(gpu: Gpu): Promise<Finding[]> {
  const error = await productError(gpu);
  if (!(error <= MAX_PRODUCT_ERROR)) {
    return [{
      check: "speed",
      state: "bad",
      text: `The adapter multiplies wrongly: the error is ${
        error.toPrecision(2)
      } of the largest entry`,
      remedies: ["Update the GPU's driver; until then gpu.adapter: software"],
      values: { productError: error },
    }];
  }
  const { gemmFlops, copyBytes } = await measureRates(gpu);
  const product = gemmFlops >= 1e12
    ? `${(gemmFlops / 1e12).toFixed(1)} TFLOP/s`
    : `${(gemmFlops / 1e9).toFixed(1)} GFLOP/s`;
  return [{
    check: "speed",
    state: "good",
    text: `product of f32 matrices ${product}, copy by a kernel ${
      bytesText(copyBytes)
    }/s read and written`,
    values: { gemmFlops, copyBytes, productError: error },
  }];
}

function disks(): Finding[] {
  const folders: Record<string, [path: string, advice: string]> = {
    output: [Deno.cwd(), "choose another output in the pipeline file"],
    hub: [hubFolder(), "set HF_HUB_CACHE to a folder on another disk"],
  };
  const tuning = tuningFolder();
  if (tuning) folders.cache = [tuning, "set BILLM_CACHE to a folder that can be written to"];
  return Object.entries(folders).map(([use, [path, advice]]): Finding => {
    const free = freeBytes(path);
    const values = { use, path, freeBytes: free, writable: canWrite(path) };
    const text = `${use}: ${bytesText(free)} free for ${path}`;
    if (!values.writable) {
      return {
        check: "disk",
        state: "warning",
        text: `${use}: ${path} cannot be written to`,
        remedies: [`${advice[0].toUpperCase()}${advice.slice(1)}`],
        values,
      };
    }
    // The folder for measurements holds next to nothing.
    if (use === "cache" || free >= MUCH_DISK) return { check: "disk", state: "good", text, values };
    const size = free < LITTLE_DISK
      ? "small models only"
      : "a model of seven billion weights at most";
    return {
      check: "disk",
      state: "warning",
      text: `${text}, enough for ${size}`,
      remedies: [`Make room, or ${advice}`],
      values,
    };
  });
}

function hubFolder(): string {
  try {
    return hubSettings().cache;
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    return hubSettings({ ...Deno.env.toObject(), HF_ENDPOINT: "", HF_TOKEN: "x" }).cache;
  }
}

async function hub(signal: AbortSignal): Promise<Finding> {
  const check = "hub";
  let settings: HubSettings;
  try {
    settings = hubSettings();
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    return { check, state: "warning", text: error.message };
  }
  const { endpoint, token, tokenSource, cache, offline } = settings;
  const values = { endpoint, offline, hasToken: token !== undefined, tokenSource, cache };
  if (offline) {
    return {
      check,
      state: "good",
      text: "offline (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE): nothing is downloaded, " +
        `what lies in ${cache} can be used`,
      values,
    };
  }
  // What the token is asked for anybody else may ask for a small, old, public model.
  const repository = { type: "model" as const, id: "openai-community/gpt2", revision: "main" };
  const question = token === undefined ? `models/${repository.id}` : "whoami-v2";
  const session = new HubSession(settings, repository, DEFAULT_LIMITS, signal, () => {}, true);
  const start = performance.now();
  try {
    const answer = await session.fetch(`${endpoint}/api/${question}`);
    const ms = Math.round(performance.now() - start);
    const { name } = await answer.json();
    const who = token === undefined
      ? "no token: public models only; HF_TOKEN opens gated ones such as LLaMA's"
      : `the token of ${tokenSource} is that of "${name}"`;
    return {
      check,
      state: "good",
      text: `${endpoint} answers in ${ms} ms, ${who}`,
      values: { ...values, ms, ...(token !== undefined && { account: name }) },
    };
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof UserError)) throw error;
    return {
      check,
      state: "warning",
      text: error.message.replace(/^Cannot download ".*?": /, ""),
      remedies: [
        "Models and texts in folders, and what the hub's cache holds, can be used without",
      ],
      values,
    };
  }
}
