import { UserError } from "~/base/errors.ts";
import { fetchModel } from "~/hub/fetch_files.ts";
import { hubSettings } from "~/hub/settings.ts";
import { QUICK } from "./hub_place.ts";

// Fetches "org/model" with the settings of the environment, and prints the snapshot or the error.

const controller = new AbortController();
Deno.addSignalListener("SIGINT", () => controller.abort());
try {
	const snapshot = await fetchModel({ type: "model", id: "org/model", revision: "main" }, {
		settings: hubSettings(),
		signal: controller.signal,
		limits: QUICK,
	});
	console.log(JSON.stringify(snapshot));
	Deno.exit(0);
} catch (error) {
	if (controller.signal.aborted) Deno.exit(130);
	if (!(error instanceof UserError)) throw error;
	console.log(error.message);
	Deno.exit(1);
}
