import assert from "node:assert/strict";
import { join } from "node:path";
import { writeSafetensors } from "../../models/safetensors.ts";
import { consecutiveWindows, randomWindows, readText, readTokenIds } from "../../models/windows.ts";
import { UserError } from "../../pipeline/errors.ts";

const ids = Array.from({ length: 1000 }, (_, i) => i);

Deno.test("readText() gives a text as it is, without a byte order mark", () => {
  const text = "One\r\n \nTwo 中\n";
  withFile("a.txt", text, (path) => assert.equal(readText(path), text));
  withFile("a.txt", "\ufeff" + text, (path) => assert.equal(readText(path), text));
  withFile("a.txt", "", (path) => assert.equal(readText(path), ""));
});

Deno.test("readText() joins the rows of a WikiText file as its perplexities want it", () => {
  const raw = " \n = Title = \n \n A line . \n";
  const joined = "\n\n = Title = \n\n\n\n\n A line . \n";
  withFile("wiki.test.raw", raw, (path) => assert.equal(readText(path), joined));
  withFile("x.raw", raw + "cut", (path) => assert.equal(readText(path), joined + "\n\ncut"));
  withFile("x.raw", "", (path) => assert.equal(readText(path), ""));
});

Deno.test("readText() refuses what is no text", () => {
  withFile("a.txt", new Uint8Array([0x41, 0xe9, 0x42]), (path, folder) => {
    const refused = (path: string, problem: string) =>
      assert.throws(
        () => readText(path),
        new UserError(`Cannot read the text "${path}": ${problem}`),
      );
    refused(path, "it is not UTF-8; convert it, for example with iconv");
    refused(path + "x", "there is no such file");
    refused(folder, "it is a folder");
  });
});

Deno.test("consecutiveWindows() covers the text and drops the rest", () => {
  const windows = consecutiveWindows(ids, 300);
  assert.deepEqual(windows.map((window) => [window[0], window.at(-1), window.length]), [
    [0, 299, 300],
    [300, 599, 300],
    [600, 899, 300],
  ]);
  assert.equal(consecutiveWindows(ids, 100, { limit: 4 }).length, 4);
  assert.equal(consecutiveWindows(ids, 100, { limit: 40 }).length, 10);
  assert.deepEqual(consecutiveWindows(ids, 1000), [Int32Array.from(ids)]);
});

Deno.test("windows need a text as long as one of them", () => {
  const error = (name: string) =>
    new UserError(
      `The text${name} has 1000 tokens, fewer than one window of 1001; ` +
        `use a longer text or a smaller sequence-length`,
    );
  assert.throws(() => consecutiveWindows(ids, 1001), error(""));
  const named = { name: "calibration.txt" };
  assert.throws(() => consecutiveWindows(ids, 1001, named), error(' "calibration.txt"'));
  assert.throws(() => randomWindows(ids, 1001, 1, 0, named), error(' "calibration.txt"'));
  const zero = new RangeError("Cannot cut windows of 0 tokens");
  assert.throws(() => consecutiveWindows(ids, 0), zero);
});

// Computed from PractRand's sfc32 in Python: the upper half of (output × 991), 64 bits.
const STARTS: [seed: number, starts: number[]][] = [
  [0, [314, 33, 186, 972, 218, 574, 914, 482]],
  [1, [464, 432, 394, 410, 467, 383, 629, 959]],
  [2 ** 32, [299, 923, 670, 241, 428, 891, 958, 750]],
  [2 ** 53 - 1, [754, 600, 753, 42, 439, 366, 286, 141]],
];
for (const [seed, starts] of STARTS) {
  Deno.test(`randomWindows() gives the windows of sfc32 for seed ${seed}`, () => {
    const windows = randomWindows(ids, 10, 8, seed);
    assert.deepEqual(windows.map((window) => window[0]), starts);
    for (const window of windows) {
      assert.deepEqual(window, Int32Array.from({ length: 10 }, (_, i) => window[0] + i));
    }
    assert.deepEqual(randomWindows(ids, 10, 3, seed), windows.slice(0, 3));
  });
}

Deno.test("randomWindows() reaches every place alike", () => {
  const counts = new Array(5).fill(0);
  for (const [start] of randomWindows(ids.slice(0, 8), 4, 5000, 7)) counts[start]++;
  for (const count of counts) assert.ok(Math.abs(count - 1000) < 150, `${counts}`); // 5 sigma
  assert.deepEqual(randomWindows(ids, 1000, 2, 0), [Int32Array.from(ids), Int32Array.from(ids)]);
});

for (const [dtype, stored] of [["I32", Int32Array], ["I64", BigInt64Array]] as const) {
  Deno.test(`readTokenIds() reads windows stored as ${dtype}`, () => {
    const values = [[0, 1, 2], [3, 4, 2 ** 31 - 1]];
    const numbers = stored === Int32Array
      ? new Int32Array(values.flat())
      : new BigInt64Array(values.flat().map(BigInt));
    withFile("x.safetensors", "", (path) => {
      const data = new Uint8Array(numbers.buffer);
      writeSafetensors(path, [{ name: "ids", dtype, shape: [2, 3], data }]);
      assert.deepEqual(readTokenIds(path), values.map((window) => Int32Array.from(window)));
    });
  });
}

Deno.test("readTokenIds() refuses what are no token windows", () => {
  withFile("x.safetensors", "", (path) => {
    const refused = (problem: string) =>
      assert.throws(
        () => readTokenIds(path),
        new UserError(`Cannot read token ids from "${path}": ${problem}`),
      );
    const a = { name: "a", dtype: "I32", shape: [2], data: new Uint8Array(8) } as const;
    writeSafetensors(path, [{ ...a, shape: [2] }]);
    refused('"a" is I32 [2], not I32 or I64 [windows, length]');
    writeSafetensors(path, [{ ...a, dtype: "F32", shape: [1, 2] }]);
    refused('"a" is F32 [1, 2], not I32 or I64 [windows, length]');
    writeSafetensors(path, [{ ...a, shape: [0, 2], data: [] }]);
    refused('"a" is I32 [0, 2], not I32 or I64 [windows, length]');
    writeSafetensors(path, [{ ...a, shape: [2] }, { ...a, name: "b", shape: [2] }]);
    refused("it has 2 tensors, but one is needed");
    const tooLarge = new Uint8Array(new BigInt64Array([2n ** 31n]).buffer);
    writeSafetensors(path, [{ name: "a", dtype: "I64", shape: [1, 1], data: tooLarge }]);
    refused("2147483648 is no token id");
  });
});

const SHARED = join(import.meta.dirname!, "../../../shared/fixtures/billm-reference");
Deno.test({
  name: "readTokenIds() reads the calibration set of the reference (needs ../shared)",
  ignore: !exists(SHARED),
  fn() {
    const windows = readTokenIds(join(SHARED, "tiny-llama.calibration.safetensors"));
    assert.equal(windows.length, 64);
    assert.ok(windows.every((window) => window.length === 512));
    assert.deepEqual([...windows[0].subarray(0, 5)], [342, 469, 723, 271, 455]);
  },
});

/** Runs a test on a file of that name and content, in a fresh folder. */
function withFile(
  name: string,
  content: string | Uint8Array,
  test: (path: string, folder: string) => void,
): void {
  const folder = Deno.makeTempDirSync();
  try {
    const path = join(folder, name);
    if (typeof content === "string") Deno.writeTextFileSync(path, content);
    else Deno.writeFileSync(path, content);
    test(path, folder);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

function exists(path: string): boolean {
  try {
    return Boolean(Deno.statSync(path));
  } catch {
    return false;
  }
}
