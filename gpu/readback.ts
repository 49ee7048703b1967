const CHUNK = 4 << 20;

/**
 * Readback of GPU buffers to host memory.
 *
 * In Deno an awaited `mapAsync` sleeps 11 ms, but `getMappedRange` called in the same tick waits for
 * the queue and succeeds. The specification does not guarantee that, so `open` tries it once and falls
 * back to awaiting if it throws.
 */
export class Readback {
	#next = 0;
	/** Settles after the last read: a slot can be mapped for only one read at a time. */
	#turn: Promise<void> = Promise.resolve();

	private constructor(
		readonly device: GPUDevice,
		private readonly slots: readonly GPUBuffer[],
		/** A small buffer to read in order to wait. */
		private readonly echo: GPUBuffer,
		/** Whether buffers can be mapped without awaiting. */
		readonly synchronous: boolean,
	) {}

	static async open(device: GPUDevice): Promise<Readback> {
		const slots: GPUBuffer[] = [];
		for (let i = 0; i < 2; i++) {
			const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
			const slot = device.createBuffer({ label: "readback", size: CHUNK, usage });
			await slot.mapAsync(GPUMapMode.READ); // Deno panics if the first map is not awaited
			slot.unmap();
			slots.push(slot);
		}
		const [probe] = slots;
		let synchronous = true;
		const mapped = probe.mapAsync(GPUMapMode.READ);
		mapped.catch(() => {});
		try {
			probe.getMappedRange(0, 4);
		} catch {
			synchronous = false;
			await mapped;
		}
		probe.unmap();
		const echo = device.createBuffer({ label: "echo", size: 4, usage: GPUBufferUsage.COPY_SRC });
		return new Readback(device, slots, echo, synchronous);
	}

	/** Waits for all work submitted before; synchronously if maps are synchronous. */
	wait(): Promise<void> {
		return this.read(this.echo, 0, new Uint8Array(4));
	}

	/** Fills `target` from byte `offset` of `source`, after all work submitted before. */
	async read(source: GPUBuffer, offset: number, target: Uint8Array): Promise<void> {
		const before = this.#turn;
		const { promise, resolve } = Promise.withResolvers<void>();
		this.#turn = promise;
		if (!this.synchronous) await before;
		try {
			for (let start = 0; start < target.byteLength; start += CHUNK) {
				const length = Math.min(CHUNK, target.byteLength - start);
				const slot = this.slots[this.#next++ % this.slots.length];
				const size = Math.ceil(length / 4) * 4;
				const encoder = this.device.createCommandEncoder({ label: "readback" });
				encoder.copyBufferToBuffer(source, offset + start, slot, 0, size);
				this.device.queue.submit([encoder.finish()]);
				const mapped = slot.mapAsync(GPUMapMode.READ, 0, size);
				if (this.synchronous) mapped.catch(() => {});
				else await mapped;
				target.set(new Uint8Array(slot.getMappedRange(0, size)).subarray(0, length), start);
				slot.unmap();
			}
		} finally {
			resolve();
		}
	}
}
