/** What was asked and not yet answered: ids, and who waits for which. It owns no timer; the askers bound their waits. */

import { connectionLost, DrawbridgeError } from "./errors.js";
import type { ErrorMessage, ServerMessage } from "./messages.js";

interface Waiting {
  resolve(message: ServerMessage): void;
  reject(error: DrawbridgeError): void;
}

export class Requests {
  #lastId = 0;
  readonly #waiting = new Map<number, Waiting>();

  /** Ids are never used twice, not even on another connection. */
  nextId(): number {
    return ++this.#lastId;
  }

  get size(): number {
    return this.#waiting.size;
  }

  /** The one answer to `id`. */
  wait(id: number): Promise<ServerMessage> {
    return new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
  }

  /** Whether somebody waited for it. */
  settle(id: number | undefined, message: ServerMessage): boolean {
    const waiting = id === undefined ? undefined : this.#take(id);
    if (!waiting) return false;
    if (message.type === "ERROR") waiting.reject(DrawbridgeError.fromWire(message as ErrorMessage));
    else waiting.resolve(message);
    return true;
  }

  /** Nobody waits for `id` any more: a late answer is dropped. */
  abandon(id: number, error: DrawbridgeError): void {
    this.#take(id)?.reject(error);
  }

  /** The link broke: no answer will come. */
  lose(closeCode?: number): void {
    for (const id of [...this.#waiting.keys()]) this.#take(id)?.reject(connectionLost(closeCode));
  }

  #take(id: number): Waiting | undefined {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    return waiting;
  }
}
