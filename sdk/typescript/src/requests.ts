/** What was asked and not yet answered: ids, and who waits for which. It owns no timer; the askers bound their waits. */

import { connectionLost, DrawbridgeError } from "./errors.js";
import type { ServerMessage } from "./messages.js";

/** Called once, in the turn in which the answer was read: what stands behind it in the same frame comes later. */
export type OnAnswer = (answer: ServerMessage | DrawbridgeError) => void;

export class Requests {
  #lastId = 0;
  readonly #waiting = new Map<number, OnAnswer>();
  #onIdle: (() => void) | undefined;

  /** Ids are never used twice, not even on another connection. */
  nextId(): number {
    return ++this.#lastId;
  }

  expect(id: number, onAnswer: OnAnswer): void {
    this.#waiting.set(id, onAnswer);
  }

  /** The same as a promise, which rejects with an `ERROR`. */
  answer(id: number): Promise<ServerMessage> {
    return new Promise((resolve, reject) =>
      this.expect(id, (answer) => (answer instanceof DrawbridgeError ? reject(answer) : resolve(answer))),
    );
  }

  /** Whether somebody waited for it. */
  settle(id: number | undefined, message: ServerMessage): boolean {
    return this.#end(id, message.type === "ERROR" ? DrawbridgeError.fromWire(message) : message);
  }

  /** It takes too long: a late answer will be dropped. */
  abandon(id: number, error: DrawbridgeError): void {
    this.#end(id, error);
  }

  /** Calls back once, when nothing waits for an answer; undefined: not any more. */
  whenIdle(onIdle: (() => void) | undefined): void {
    this.#onIdle = onIdle;
    this.#noticeIdle();
  }

  /** The link broke: no answer will come. */
  lose(closeCode?: number): void {
    for (const id of [...this.#waiting.keys()]) this.#end(id, connectionLost(closeCode));
  }

  #end(id: number | undefined, answer: ServerMessage | DrawbridgeError): boolean {
    const onAnswer = id === undefined ? undefined : this.#waiting.get(id);
    if (id === undefined || !onAnswer) return false;
    this.#waiting.delete(id);
    onAnswer(answer);
    this.#noticeIdle();
    return true;
  }

  #noticeIdle(): void {
    if (this.#waiting.size > 0) return;
    const onIdle = this.#onIdle;
    this.#onIdle = undefined;
    onIdle?.();
  }
}
