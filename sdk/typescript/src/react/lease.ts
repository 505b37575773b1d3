/**
 * Shares one subscription among the components that name its channel: the first one subscribes, and the last one that is
 * unmounted unsubscribes. A subscription that the application made itself is reused, and gets its view back at the end.
 * Snapshots and handlers belong to `stores.ts`.
 *
 * Changes take effect in a microtask. So what React does in one go (StrictMode's second mount, a page that replaces
 * another one) is one change, or none.
 */

import type { Drawbridge, DrawbridgeError, Subscription, SubscriptionState, View, ViewOptions } from "../index.js";

/** A mounted component. */
export interface Holder {
  /** The filter and area that it names; what is absent is left to other holders. */
  readonly view: ViewOptions;
  /** Adds its handlers to a subscription; the returned function removes them. */
  attach(subscription: Subscription<any>): () => void;
  /** Called when `state`, `error` or the freshness of the table may have changed. */
  changed(): void;
}

const leases = new WeakMap<Drawbridge<any>, Map<string, Lease>>();

/** Returns the lease of that channel. It is removed when nobody holds it any more. */
export function leaseOf(client: Drawbridge<any>, channel: string): Lease {
  const ofClient = leases.get(client) ?? new Map<string, Lease>();
  leases.set(client, ofClient);
  const lease = ofClient.get(channel) ?? new Lease(client, channel, () => ofClient.delete(channel));
  ofClient.set(channel, lease);
  return lease;
}

export class Lease {
  /** In the order of mounting; each with the function that removes its handlers, once it is attached. */
  readonly #holders = new Map<Holder, (() => void) | undefined>();
  #subscription: Subscription<any> | undefined;
  /** The view of the application's own subscription before this lease; undefined if the lease made the subscription. */
  #borrowed: View | undefined;
  #error: DrawbridgeError | undefined;
  /** Counts the requests: only the outcome of the last one is shown. */
  #round = 0;
  #isScheduled = false;
  /** A holder was added or changed its view, so a subscription that has ended is requested again. */
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

  /** Why the subscription has ended, or why the view that the holders name is not in force. */
  get error(): DrawbridgeError | undefined {
    return this.#error;
  }

  /** Adds a holder; the returned function removes it. */
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
      // An invalid area.
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

  /** Of filter and area each: that of the last holder that names one, or else of the application's own subscription. */
  #view(): ViewOptions {
    const views = [...this.#holders.keys()].map(({ view }) => view).reverse();
    const filter = views.find((view) => view.filter !== undefined)?.filter;
    const area = views.find((view) => view.area !== undefined)?.area;
    return {
      filter: filter !== undefined ? filter : (this.#borrowed?.filter ?? null),
      area: area !== undefined ? area : (this.#borrowed?.area ?? null),
    };
  }

  /** Takes over the outcome of the request that was just made. */
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
    // An error is reported by the client's `error` event.
    else subscription.unsubscribe().catch(() => {});
  }
}
