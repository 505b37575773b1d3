/** How messages become frames. JSON is built in; MessagePack is an entry of its own (`@drawbridge/client/msgpack`). */

export interface Codec {
  /** The WebSocket sub-protocol that names this encoding. */
  readonly subprotocol: string;
  /** Throws on what the encoding cannot say. */
  encode(message: unknown): string | Uint8Array<ArrayBuffer>;
  /** Throws on a frame of the wrong kind, or one that is not well formed. */
  decode(frame: string | ArrayBuffer): unknown;
}

/** Integers beyond 2^53 lose digits here, as everywhere in JavaScript's JSON. */
export const json: Codec = {
  subprotocol: "drawbridge.v1.json",
  encode(message) {
    // It would become an object with a number for each byte.
    if ((message as { data?: unknown }).data instanceof Uint8Array) throw new TypeError("bytes need the codec `msgpack`");
    return JSON.stringify(message);
  },
  decode(frame) {
    if (typeof frame !== "string") throw new TypeError("a binary frame on a JSON connection");
    return JSON.parse(frame);
  },
};

const utf8 = new TextEncoder();

/** The size of an encoded message on the wire. */
export function sizeOf(frame: string | Uint8Array): number {
  return typeof frame === "string" ? utf8.encode(frame).length : frame.length;
}
