import assert from "node:assert/strict";
import { join } from "node:path";
import { PROJECT } from "../checkout.ts";

/** What a page loads: `web/web.ts` and all that it imports, as the text of one module. */
export async function bundleWeb(): Promise<string> {
	const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
		args: ["bundle", "--quiet", "--platform", "browser", join(PROJECT, "web/web.ts")],
		cwd: PROJECT,
	}).output();
	assert(success, new TextDecoder().decode(stderr));
	return new TextDecoder().decode(stdout);
}
