/** Where tokens come from, and renewing them in place before they expire. The token itself is never logged or kept. */

import type { Clock } from "./clock.js";
import { DrawbridgeError } from "./errors.js";
import { Timer, type Runtime } from "./runtime.js";

/** Why a token is asked for. After `expired` a cached one will not do. */
export type TokenReason = "connect" | "reconnect" | "expired" | "refresh";

/** Called at each connect and reconnect, and before the token expires. */
export type TokenProvider = (reason: TokenReason) => string | Promise<string>;

/** Renew this long before the end, or at a fifth of what is left if that is sooner. */
const REFRESH_LEAD_MS = 30_000;
const REFRESH_LEAD_PART = 0.2;
/** Closer to the end it is left to expire: the server closes with 4004, and the reconnect brings a fresh one. */
const MIN_REFRESH_MS = 1_000;

/** Of a text that is no token, as much is shown: less than the header of a token, should one be in it. */
const MAX_SHOWN = 40;

export class Tokens {
  readonly #timer: Timer;
  #round = 0;

  constructor(
    private readonly source: string | TokenProvider | undefined,
    private readonly clock: Clock,
    runtime: Runtime,
  ) {
    this.#timer = new Timer(runtime);
  }

  /** Whether asking again can bring another token. */
  get renewable(): boolean {
    return typeof this.source === "function";
  }

  /** Undefined: connect without one (an anonymous player). */
  async get(reason: TokenReason): Promise<string | undefined> {
    if (typeof this.source !== "function") return this.source;
    let token: unknown;
    try {
      token = await this.source(reason);
    } catch (cause) {
      const why = cause instanceof Error ? cause.message : String(cause);
      throw new DrawbridgeError("TOKEN_PROVIDER", `the token provider failed: ${why}`, { retryable: true, cause });
    }
    // From code without types: a `Response` whose text was not read, say.
    if (token === undefined || (typeof token === "string" && !isProse(token))) return token;
    const [what, hint] =
      typeof token === "string"
        ? [`a text that is no token: ${JSON.stringify(token.slice(0, MAX_SHOWN))}`, "check the response before you read it: if (!answer.ok) throw …"]
        : [`${nameOf(token)}, not a string`, "return the token itself: (await fetch(…)).text()"];
    throw new DrawbridgeError("TOKEN_PROVIDER", `the token provider returned ${what}`, { retryable: true, hint });
  }

  /**
   * Keeps a connection's token fresh until `stop`. `renew` tells the server and answers with the new end, if the
   * server names one; what goes wrong is reported and tried again while there is time.
   */
  keepFresh(
    token: string | undefined,
    renew: (token: string) => Promise<number | undefined>,
    report: (error: unknown) => void,
  ): void {
    this.stop();
    if (this.renewable && token !== undefined) this.#arm(expiryOf(token), renew, report);
  }

  stop(): void {
    this.#round++;
    this.#timer.clear();
  }

  #arm(
    expiresMs: number | undefined,
    renew: (token: string) => Promise<number | undefined>,
    report: (error: unknown) => void,
  ): void {
    if (expiresMs === undefined) return;
    const leftMs = expiresMs - this.clock.now();
    const delayMs = leftMs - Math.min(REFRESH_LEAD_MS, leftMs * REFRESH_LEAD_PART);
    if (delayMs < MIN_REFRESH_MS) return;
    const round = this.#round;
    this.#timer.set(delayMs, async () => {
      let nextExpiryMs: number | undefined = expiresMs;
      try {
        const token = await this.get("refresh");
        if (round !== this.#round || token === undefined) return;
        nextExpiryMs = (await renew(token)) ?? expiryOf(token);
      } catch (error) {
        if (round === this.#round) report(error);
      }
      if (round === this.#round) this.#arm(nextExpiryMs, renew, report);
    });
  }
}

/** Whether a text is an error page, say, and no JWT, which has no white space within. */
function isProse(text: string): boolean {
  return /\S\s+\S/.test(text);
}

function nameOf(value: unknown): string {
  return value === null ? "null" : typeof value === "object" ? `an object (${value.constructor?.name})` : `a ${typeof value}`;
}

/** The `exp` of a JWT in Unix milliseconds, unverified; undefined for a token that has none or is no JWT. */
function expiryOf(token: string): number | undefined {
  try {
    const claims = (token.split(".")[1] ?? "").replace(/-/g, "+").replace(/_/g, "/");
    const { exp } = JSON.parse(atob(claims)) as { exp?: unknown };
    return typeof exp === "number" ? exp * 1000 : undefined;
  } catch {
    return undefined;
  }
}
