/**
 * Warns the developer why the client cannot connect, once for each cause. Node reports what went wrong with a socket. A
 * browser does not, so that pages cannot scan networks: there an HTTP request to the address finds out whether a server
 * responds. When to connect again is decided in `link.ts`.
 */

import type { DrawbridgeError } from "./errors.js";
import type { Runtime } from "./runtime.js";

/** The hint if the cause is not known, as in a browser. */
const UNEXPLAINED = "is the server running, are host, port and path right, and does the server allow the origin of this page?";

/** Error messages of Node and `ws`, and the likely cause of each. */
const HINTS: [RegExp, string][] = [
  [/ECONNREFUSED/, "nothing listens there: is the server running, and is this its port?"],
  [/ENOTFOUND|EAI_AGAIN/, "there is no such host: is its name right?"],
  [/\b403\b/, "the server does not allow this origin: add it to its connection.allowed_origins"],
  [/\b404\b/, "is the path right? Drawbridge's is /ws"],
  [/wrong version number/, "this port has no TLS: use ws:"],
  [/certificate/, "the server's certificate is not trusted here"],
  [/hang up|ECONNRESET|Parse Error/, "no WebSocket server answers there: is this its port, and does it need wss:?"],
];

/** What the application should pass as its token, which it passed as a value of this type. */
function hintOfToken(code: string, token: string): string | undefined {
  if (code === "UNAUTHENTICATED" && token === "undefined") return "pass `token` to the client: a JWT, or a function that returns one";
  if (code === "TOKEN_EXPIRED" && token === "string") return "pass a function as `token`, which fetches a fresh one";
  return undefined;
}

/** The likely cause of a socket that failed to open with this error message, or with none. */
export function hintOf(reported: string | undefined): string {
  return HINTS.find(([pattern]) => reported && pattern.test(reported))?.[1] ?? UNEXPLAINED;
}

/** The likely cause if the `WebSocket` constructor throws. */
export function hintOfBlocked(url: string): string | undefined {
  const isMixed = url.startsWith("ws:") && globalThis.location?.protocol === "https:";
  return isMixed ? "mixed content: a page over https may open wss: only" : undefined;
}

/** Bounds the warnings, should an error message vary. */
const MAX_CAUSES = 4;

/** Warns about failed connects until one succeeds; later failures are reported by `status` alone. */
export class ConnectLog {
  readonly #url: URL;
  /** The causes that were logged; undefined after the first success. */
  #causes: Set<string> | undefined = new Set();

  constructor(
    url: string,
    /** The type of what the application passed as its token. */
    private readonly token: string,
    private readonly runtime: Runtime,
    private readonly warn: (message: string) => void,
  ) {
    this.#url = new URL(url);
  }

  succeeded(): void {
    this.#causes = undefined;
  }

  /** Whether the next failure is logged, if its cause is new. */
  get isActive(): boolean {
    return this.#causes !== undefined;
  }

  /** `next`: what the client does about it. */
  async failed({ code, message, hint: reported }: DrawbridgeError, next: string): Promise<void> {
    const hint = reported ?? hintOfToken(code, this.token);
    const cause = `${code} ${hint ?? message}`;
    if (!this.#causes || this.#causes.has(cause) || this.#causes.size >= MAX_CAUSES) return;
    this.#causes.add(cause);
    const likely = hint === UNEXPLAINED ? await this.#explore() : hint;
    // The client may have connected in the meantime.
    if (this.#causes) this.warn(`drawbridge: cannot connect to ${this.#shown("ws")}: ${code}: ${message}${likely ? ` (${likely})` : ""}; ${next}`);
  }

  async #explore(): Promise<string> {
    const { host, pathname, protocol } = this.#url;
    const answers = await this.runtime.answersHttp(this.#shown("http"));
    if (answers === undefined) return UNEXPLAINED;
    if (!answers && protocol === "wss:") return `nothing answers at ${host} over TLS: is the server running, does this port have TLS (without it: ws:), and does the browser trust its certificate?`;
    if (!answers) return `nothing answers at ${host}: is the server running, is this its port, and may this page connect there?`;
    const path = pathname === "/ws" ? "" : `is the path right (Drawbridge's is /ws, this one ${pathname}), `;
    return `${host} answers, but not as a WebSocket: ${path}does the server allow the origin ${globalThis.location?.origin} (connection.allowed_origins), and is this its port for players? The server's log names the reason`;
  }

  /** Without query and credentials, which may be secret. */
  #shown(scheme: "ws" | "http"): string {
    const { protocol, host, pathname } = this.#url;
    return `${protocol.replace("ws", scheme)}//${host}${pathname}`;
  }
}
