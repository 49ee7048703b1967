/**
 * Keeps the files of the page for times without a network. With one, the server's are used, so that the page
 * is never an old one. Models are not its concern: the page stores them itself.
 */

/// <reference lib="webworker" />

const CACHE = "billm-page";
/** The files of the page, beside this one. */
const FILES = ["./", "page.css", "page.js", "worker.js", "worker.packed", "site.json"];

const worker = globalThis as unknown as ServiceWorkerGlobalScope;

worker.addEventListener("install", (event) => {
	event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(FILES)));
	void worker.skipWaiting();
});

worker.addEventListener("activate", (event) => event.waitUntil(worker.clients.claim()));

const addresses = new Set(FILES.map((name) => new URL(name, worker.location.href).pathname));

worker.addEventListener("fetch", (event) => {
	const { request } = event;
	const { origin, pathname } = new URL(request.url);
	const isOwn = origin === worker.location.origin && addresses.has(pathname);
	if (isOwn && request.method === "GET") event.respondWith(fetchOrRecall(request, pathname));
});

async function fetchOrRecall(request: Request, pathname: string): Promise<Response> {
	const cache = await caches.open(CACHE);
	try {
		const response = await fetch(request);
		if (response.ok) await cache.put(pathname, response.clone());
		return response;
	} catch (error) {
		const kept = await cache.match(pathname);
		if (kept) return kept;
		throw error;
	}
}
