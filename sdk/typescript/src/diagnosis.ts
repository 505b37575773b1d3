/**
 * Why the client cannot connect, in words for whoever sets it up, once for each cause. Node says what went wrong with a
 * socket; a browser keeps that to itself, so there the address is asked by HTTP whether anything answers. What is done
 * about it is `link.ts`'s business.
 */

import type { DrawbridgeError } from "./errors.js";
import type { Runtime } from "./runtime.js";

/** The hint where nothing is known, as in a browser. */
const UNEXPLAINED = "is the server running, are host, port and path right, and does the server allow the origin of this page?";

/** What Node and `ws` say, and what is likely the matter. */
const HINTS: [RegExp, string][] = [
  [/ECONNREFUSED/, "nothing listens there: is the server running, and is this its port?"],
  [/ENOTFOUND|EAI_AGAIN/, "there is no such host: is its name right?"],
  [/\b403\b/, "the server does not allow this origin: add it to its connection.allowed_origins"],
  [/\b404\b/, "is the path right? Drawbridge's is /ws"],
  [/wrong version number/, "this port has no TLS: use ws:"],
  [/certificate/, "the server's certificate is not trusted here"],
  [/hang up|ECONNRESET|Parse Error/, "no WebSocket server answers there: is this its port, and does it need wss:?"],
];

/** For a socket that was not opened; `said`: by the runtime. */
export function hintOf(said: string | undefined): string {
  return HINTS.find(([pattern]) => said && pattern.test(said))?.[1] ?? UNEXPLAINED;
}

/** For a socket that could not even be made. */
export function hintOfBlocked(url: string): string | undefined {
  const isMixed = url.startsWith("ws:") && globalThis.location?.protocol === "https:";
  return isMixed ? "mixed content: a page over https may open wss: only" : undefined;
}

/** More causes than a set-up goes through are noise. */
const MAX_CAUSES = 4;

/** Warnings about connects that fail, until one succeeds; from then on `status` says what happens. */
export class ConnectLog {
  readonly #url: URL;
  /** What was logged; undefined: a connect has succeeded. */
  #causes: Set<string> | undefined = new Set();

  constructor(
    url: string,
    private readonly runtime: Runtime,
    private readonly warn: (message: string) => void,
  ) {
    this.#url = new URL(url);
  }

  succeeded(): void {
    this.#causes = undefined;
  }

  /** `next`: what the client does about it. */
  async failed({ code, message, hint }: DrawbridgeError, next: string): Promise<void> {
    const cause = `${code} ${hint ?? message}`;
    if (!this.#causes || this.#causes.has(cause) || this.#causes.size >= MAX_CAUSES) return;
    this.#causes.add(cause);
    const likely = hint === UNEXPLAINED ? await this.#explore() : hint;
    // It may have connected while the address was asked.
    if (this.#causes) this.warn(`drawbridge: cannot connect to ${this.#shown("ws")}: ${code}: ${message}${likely ? ` (${likely})` : ""}; ${next}`);
  }

  async #explore(): Promise<string> {
    const { host, pathname } = this.#url;
    const answers = await this.runtime.answersHttp(this.#shown("http"));
    if (answers === undefined) return UNEXPLAINED;
    if (!answers) return `nothing answers at ${host}: is the server running, is this its port, and may this page connect there?`;
    const path = pathname === "/ws" ? "" : `, or its path is not ${pathname} (Drawbridge's is /ws)`;
    return `${host} answers, but refuses the connection: it does not allow the origin ${globalThis.location?.origin} (connection.allowed_origins)${path}`;
  }

  /** Without query and credentials, which may be secret. */
  #shown(scheme: "ws" | "http"): string {
    const { protocol, host, pathname } = this.#url;
    return `${protocol.replace("ws", scheme)}//${host}${pathname}`;
  }
}
