/** A promise that somebody else settles. */

import type { DrawbridgeError } from "./errors.js";

export class Deferred {
  resolve!: () => void;
  reject!: (error: DrawbridgeError) => void;
  settled = false;
  readonly promise = new Promise<void>((resolve, reject) => {
    this.resolve = () => ((this.settled = true), resolve());
    this.reject = (error) => ((this.settled = true), reject(error));
  });

  constructor() {
    // Nobody has to look: the client's `error` event tells, too.
    this.promise.catch(() => {});
  }
}
