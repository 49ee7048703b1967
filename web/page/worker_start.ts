/** Unpacks the worker of the page: a gzip file, so that the page is small on every host. */

/// <reference lib="webworker" />

/** What is asked meanwhile. */
const questions: unknown[] = [];
const keep = ({ data }: MessageEvent) => void questions.push(data);
addEventListener("message", keep);

const response = await fetch("worker.packed");
if (!response.ok) throw new Error(`"${response.url}" cannot be loaded: ${response.status}`);
const text = await new Response(response.body!.pipeThrough(new DecompressionStream("gzip"))).text();
const url = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
await import(url);
URL.revokeObjectURL(url);

removeEventListener("message", keep);
for (const data of questions) dispatchEvent(new MessageEvent("message", { data }));
export {};
