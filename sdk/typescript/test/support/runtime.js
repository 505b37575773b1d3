// Time and chance by hand: nothing happens until a test says so.

export class ManualRuntime {
  #now = 1_000;
  #timers = new Map();
  #lastHandle = 0;
  #page = new Set();
  #keys = 0;
  /** What `random` answers. 1 makes every wait its whole bound. */
  chance = 1;
  /** Unix time at `now() === 0`. */
  wallOffset = 1_700_000_000_000;

  now = () => this.#now;
  wallNow = () => this.wallOffset + this.#now;
  random = () => this.chance;

  setTimeout = (callback, delayMs) => {
    const handle = ++this.#lastHandle;
    this.#timers.set(handle, { due: this.#now + delayMs, callback });
    return handle;
  };

  clearTimeout = (handle) => void this.#timers.delete(handle);

  onPage = (callback) => {
    this.#page.add(callback);
    return () => this.#page.delete(callback);
  };

  /** What `answersHttp` answers; undefined: as outside of a browser. */
  answers = undefined;
  /** The addresses that it was asked for. */
  asked = [];
  answersHttp = async (url) => {
    this.asked.push(url);
    return this.answers;
  };

  uniqueKey = () => `key-${++this.#keys}`;

  get timers() {
    return this.#timers.size;
  }

  /** Runs what becomes due, in its order. */
  advance(ms) {
    const until = this.#now + ms;
    for (;;) {
      const due = [...this.#timers].filter(([, timer]) => timer.due <= until).sort((a, b) => a[1].due - b[1].due || a[0] - b[0]);
      if (due.length === 0) break;
      const [handle, timer] = due[0];
      this.#timers.delete(handle);
      this.#now = Math.max(this.#now, timer.due);
      timer.callback();
    }
    this.#now = until;
  }

  /** The machine slept: everything that became due runs late. */
  sleep(ms) {
    this.#now += ms;
    this.advance(0);
  }

  online() {
    this.page("online");
  }

  /** The browser says so. */
  page(signal) {
    for (const callback of [...this.#page]) callback(signal);
  }
}
