/** Listeners by name. A listener that throws is reported and the others still run. */

export type Unlisten = () => void;

type Listener = (argument: any) => void;

export class Emitter<Events extends object> {
  readonly #listeners = new Map<keyof Events, Set<Listener>>();

  /** `report` gets what a listener threw; `changed` is called after a listener was added or removed. */
  constructor(
    private readonly report: (thrown: unknown) => void,
    private readonly changed: () => void = () => {},
  ) {}

  get isEmpty(): boolean {
    return this.#listeners.size === 0;
  }

  on<K extends keyof Events>(name: K, listener: (argument: Events[K]) => void): Unlisten {
    // A fresh function, so that the same listener may be there twice and is taken away once.
    const entry: Listener = (argument) => listener(argument);
    const set = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, set.add(entry));
    this.changed();
    return () => {
      set.delete(entry);
      if (set.size === 0 && this.#listeners.get(name) === set) this.#listeners.delete(name);
      this.changed();
    };
  }

  /** As `on`, for the next one only. */
  once<K extends keyof Events>(name: K, listener: (argument: Events[K]) => void): Unlisten {
    const unlisten = this.on(name, (argument) => {
      unlisten();
      return listener(argument);
    });
    return unlisten;
  }

  has(name: keyof Events): boolean {
    return this.#listeners.has(name);
  }

  emit<K extends keyof Events>(name: K, argument: Events[K], report = this.report): void {
    // A copy: a listener may add listeners, which wait for the next event, and remove some, which are not called any more.
    for (const listener of [...(this.#listeners.get(name) ?? [])]) {
      if (this.#listeners.get(name)?.has(listener)) contain(() => listener(argument), report);
    }
  }

  clear(): void {
    this.#listeners.clear();
    this.changed();
  }
}

/** Calls the application's code; neither its exception nor its rejected promise comes back. */
function contain(call: () => unknown, report: (thrown: unknown) => void): void {
  try {
    const result = call();
    if (result instanceof Promise) result.catch(report);
  } catch (thrown) {
    report(thrown);
  }
}
