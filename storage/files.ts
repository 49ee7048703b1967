import { createHash } from "node:crypto";
import {
  closeSync,
  fsyncSync,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { UserError } from "../base/errors.ts";
import { reasonOf } from "./folder.ts";

/** Replaces a file atomically: a reader, or a crash, finds either the old content or the new one. */
export function writeFileAtomically(path: string, content: string): void {
  replaceAtomically(path, (temporary) => writeFileSync(temporary, content));
}

/** Copies a file atomically. */
export function copyFileAtomically(source: string, path: string): void {
  replaceAtomically(path, (temporary) => writeFileSync(temporary, readFileSync(source)));
}

/** Writes a value atomically as indented JSON. */
export function writeJsonAtomically(path: string, value: unknown): void {
  writeFileAtomically(path, JSON.stringify(value, null, 2) + "\n");
}

function replaceAtomically(path: string, write: (temporary: string) => void): void {
  const temporary = `${path}.tmp`;
  try {
    write(temporary);
    const file = openSync(temporary, "r+");
    try {
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw new UserError(`Cannot write "${path}": ${reasonOf(error)}`);
  }
}

/**
 * Computes the SHA-256 of a file in steps of 64 MiB; each step yields the number of bytes read.
 *
 * @throws {UserError} If the file cannot be read.
 */
export function* sha256InSteps(path: string): Generator<number, string> {
  const hash = createHash("sha256");
  const buffer = new Uint8Array(1 << 20);
  let file: number;
  try {
    file = openSync(path, "r");
  } catch (error) {
    throw new UserError(`Cannot read "${path}": ${reasonOf(error)}`);
  }
  try {
    let step = 0;
    for (let read = 0; (read = readSync(file, buffer)) > 0;) {
      hash.update(buffer.subarray(0, read));
      step += read;
      if (step < 64 << 20) continue;
      yield step;
      step = 0;
    }
  } catch (error) {
    throw new UserError(`Cannot read "${path}": ${reasonOf(error)}`);
  } finally {
    closeSync(file);
  }
  return hash.digest("hex");
}

/** @throws {UserError} If the file cannot be read. */
export function sha256OfFile(path: string): string {
  const steps = sha256InSteps(path);
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
  }
}
