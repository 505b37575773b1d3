/**
 * Who uses a channel. All components that name it hold one lease: the first brings the subscription about, and with the
 * last it ends. A subscription that the application made itself is used, and left as it was.
 *
 * What changes takes effect in a microtask, so that whatever React does at once (StrictMode's second mount, one page
 * that replaces another) is one change, or none.
 */

import type { Drawbridge, DrawbridgeError, Subscription, SubscriptionState, View, ViewOptions } from "../index.js";

/** A mounted component. */
export interface Holder {
  /** What it names of the view; where it names nothing, others decide. */
  readonly view: ViewOptions;
  /** There is a subscription to listen to; the result ends that. */
  attach(subscription: Subscription<any>): () => void;
  /** `state`, `error` or what the subscription shows has changed. */
  changed(): void;
}

const leases = new WeakMap<Drawbridge<any>, Map<string, Lease>>();

/** The lease of that channel; it exists as long as somebody holds it. */
export function leaseOf(client: Drawbridge<any>, channel: string): Lease {
  const ofClient = leases.get(client) ?? new Map<string, Lease>();
  leases.set(client, ofClient);
  const lease = ofClient.get(channel) ?? new Lease(client, channel, () => ofClient.delete(channel));
  ofClient.set(channel, lease);
  return lease;
}

export class Lease {
  /** In the order of mounting; with what detaches those that are attached. */
  readonly #holders = new Map<Holder, (() => void) | undefined>();
  #subscription: Subscription<any> | undefined;
  /** What the application's own subscription had before; undefined where the subscription is this lease's. */
  #borrowed: View | undefined;
  #error: DrawbridgeError | undefined;
  /** Counts what was asked for: only the last answer is of interest. */
  #round = 0;
  #isScheduled = false;
  /** Somebody came, or wants to see something else: one that has ended is asked for again. */
  #isWanted = false;
  #unlisten: (() => void)[] = [];

  constructor(
    private readonly client: Drawbridge<any>,
    private readonly channel: string,
    private readonly forget: () => void,
  ) {}

  get state(): SubscriptionState {
    return this.#subscription?.state ?? "pending";
  }

  /** Why the subscription has ended, or is not as the components want it. */
  get error(): DrawbridgeError | undefined {
    return this.#error;
  }

  /** Until the result is called. */
  hold(holder: Holder): () => void {
    this.#holders.set(holder, undefined);
    this.viewChanged();
    return () => {
      this.#holders.get(holder)?.();
      this.#holders.delete(holder);
      this.#schedule();
    };
  }

  viewChanged(): void {
    this.#isWanted = true;
    this.#schedule();
  }

  #schedule(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    queueMicrotask(() => {
      this.#isScheduled = false;
      if (this.#holders.size === 0) this.#end();
      else this.#apply();
    });
  }

  #apply(): void {
    const isWanted = this.#isWanted;
    this.#isWanted = false;
    const current = this.#subscription;
    if (!isWanted && current?.state === "ended") return;
    try {
      const subscription = this.#subscribe();
      this.#watch(subscription);
      for (const [holder, detach] of [...this.#holders]) {
        if (detach && subscription === current) continue;
        detach?.();
        this.#holders.set(holder, holder.attach(subscription));
      }
    } catch (thrown) {
      // An area that no message can carry.
      return this.#settle(thrown as DrawbridgeError);
    }
    this.#changed();
  }

  #subscribe(): Subscription<any> {
    if (this.#unlisten.length === 0) this.#listen();
    const current = this.#subscription;
    if (!current || current.state === "ended") {
      const isApplications = this.client.subscriptions.some(({ channel, by }) => channel === this.channel && by === "client");
      this.#borrowed = isApplications ? this.client.subscribe(this.channel).view : undefined;
    }
    this.#subscription = this.client.subscribe(this.channel, this.#view());
    return this.#subscription;
  }

  /** For each part: what the last holder that names it wants, or else what it was before all holders. */
  #view(): ViewOptions {
    const views = [...this.#holders.keys()].map(({ view }) => view).reverse();
    const filter = views.find((view) => view.filter !== undefined)?.filter;
    const area = views.find((view) => view.area !== undefined)?.area;
    return {
      filter: filter !== undefined ? filter : (this.#borrowed?.filter ?? null),
      area: area !== undefined ? area : (this.#borrowed?.area ?? null),
    };
  }

  /** Whether the server grants what was just asked for. */
  #watch(subscription: Subscription<any>): void {
    const round = ++this.#round;
    const settled = (error: DrawbridgeError | undefined) => round === this.#round && this.#settle(error);
    subscription.ready.then(() => settled(undefined), settled);
  }

  #settle(error: DrawbridgeError | undefined): void {
    this.#error = error;
    this.#changed();
  }

  #listen(): void {
    this.#unlisten = [
      this.client.on("status", () => this.#changed()),
      this.client.on("subscribed", ({ channel }) => channel === this.channel && this.#settle(undefined)),
      this.client.on("unsubscribed", ({ channel, error }) => channel === this.channel && this.#settle(error)),
    ];
  }

  #changed(): void {
    for (const holder of this.#holders.keys()) holder.changed();
  }

  #end(): void {
    for (const unlisten of this.#unlisten) unlisten();
    this.#unlisten = [];
    this.forget();
    const subscription = this.#subscription;
    if (!subscription || subscription.state === "ended") return;
    if (this.#borrowed) this.client.subscribe(this.channel, this.#view());
    // Whatever goes wrong with it: the client reports it.
    else subscription.unsubscribe().catch(() => {});
  }
}
