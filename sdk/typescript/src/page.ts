/** What a browser says about the page and its network. Elsewhere (Node, workers without a page) little or nothing comes. */

/**
 * `online`, `offline`: the network changed. `visible`: somebody looks at the page again, perhaps after a sleep.
 * `keep`: the page goes into the back-forward cache, and may come back as it is. `leave`: it goes for good.
 * `return`: it is back.
 */
export type PageSignal = "online" | "offline" | "visible" | "keep" | "leave" | "return";

/** Calls back for each signal; the result stops it. */
export function onPage(callback: (signal: PageSignal) => void): () => void {
  const page = globalThis as Partial<Window & typeof globalThis>;
  const { document } = page;
  if (typeof page.addEventListener !== "function") return () => {};
  const listeners: [EventTarget | undefined, string, (event: any) => void][] = [
    [page as EventTarget, "online", () => callback("online")],
    [page as EventTarget, "offline", () => callback("offline")],
    [page as EventTarget, "pagehide", ({ persisted }: PageTransitionEvent) => callback(persisted ? "keep" : "leave")],
    [page as EventTarget, "pageshow", () => callback("return")],
    [document, "visibilitychange", () => document?.visibilityState === "visible" && callback("visible")],
  ];
  for (const [target, name, listener] of listeners) target?.addEventListener(name, listener);
  return () => {
    for (const [target, name, listener] of listeners) target?.removeEventListener(name, listener);
  };
}

const ANSWER_MS = 2_000;

/** Whether an HTTP server responds at `url`, within `ANSWER_MS`; undefined outside of browsers. */
export async function answersHttp(url: string): Promise<boolean | undefined> {
  if (!globalThis.location) return undefined;
  try {
    // The response is opaque, so no server has to allow it; that there is one is enough. `HEAD`: no handshake, which is logged.
    await fetch(url, { method: "HEAD", mode: "no-cors", cache: "no-store", credentials: "omit", signal: AbortSignal.timeout(ANSWER_MS) });
    return true;
  } catch {
    return false;
  }
}
