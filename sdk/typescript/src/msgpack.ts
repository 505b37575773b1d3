/**
 * The contract's other encoding, `drawbridge.v1.msgpack`: smaller frames, bytes as bytes, and integers beyond 2^53,
 * which come and go as `bigint`. Pass it as the option `codec`. Ext types are not of the contract.
 */

import type { Codec } from "./index.js";

/** More than the contract's 64 for `data`, which stands a few levels deep in its message. */
const MAX_DEPTH = 80;

const utf8 = new TextEncoder();
const fromUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

export const msgpack: Codec = {
  subprotocol: "drawbridge.v1.msgpack",
  encode: (message) => encode(message),
  decode(frame) {
    if (typeof frame === "string") throw new TypeError("a text frame on a MessagePack connection");
    return decode(new Uint8Array(frame));
  },
};

/** Throws on what MessagePack or the contract cannot say: functions, NaN, infinities, cycles, great depth. */
export function encode(value: unknown): Uint8Array<ArrayBuffer> {
  const writer = new Writer();
  writer.value(value, 0);
  return writer.bytes();
}

/** Throws on bytes that are not exactly one value. */
export function decode(bytes: Uint8Array): unknown {
  const reader = new Reader(bytes);
  const value = reader.value(0);
  if (!reader.atEnd) throw new RangeError("bytes behind the value");
  return value;
}

class Writer {
  #buffer = new Uint8Array(256);
  #view = new DataView(this.#buffer.buffer);
  #length = 0;

  bytes(): Uint8Array<ArrayBuffer> {
    return this.#buffer.slice(0, this.#length);
  }

  value(value: unknown, depth: number): void {
    if (depth > MAX_DEPTH) throw new RangeError("too deep");
    if (value === null || value === undefined) return this.#uint(1, 0xc0);
    switch (typeof value) {
      case "boolean":
        return this.#uint(1, value ? 0xc3 : 0xc2);
      case "number":
        return this.#number(value);
      case "bigint":
        return this.#bigint(value);
      case "string":
        return this.#string(value);
      case "object":
        return this.#object(value, depth);
      default:
        throw new TypeError(`${typeof value} is no data`);
    }
  }

  #object(value: object, depth: number): void {
    if (value instanceof Uint8Array) {
      this.#head(value.length, undefined, 0xc4, 0xc5, 0xc6);
      return this.#append(value);
    }
    if (Array.isArray(value)) {
      this.#head(value.length, [0x90, 15], undefined, 0xdc, 0xdd);
      for (const item of value) this.value(item, depth + 1);
      return;
    }
    const json = (value as { toJSON?: unknown }).toJSON;
    if (typeof json === "function") return this.value(json.call(value), depth + 1);
    // As in JSON, a field that is undefined is absent.
    const entries = Object.entries(value).filter(([, item]) => item !== undefined);
    this.#head(entries.length, [0x80, 15], undefined, 0xde, 0xdf);
    for (const [key, item] of entries) {
      this.#string(key);
      this.value(item, depth + 1);
    }
  }

  #number(value: number): void {
    if (!Number.isFinite(value)) throw new RangeError(`${value} is no data`);
    if (Number.isSafeInteger(value) && !Object.is(value, -0)) return this.#integer(value);
    this.#uint(1, 0xcb);
    this.#view.setFloat64(this.#reserve(8), value);
  }

  #integer(value: number): void {
    if (value >= 0) {
      if (value < 0x80) return this.#uint(1, value);
      if (value <= 0xff) return this.#tagged(0xcc, 1, value);
      if (value <= 0xffff) return this.#tagged(0xcd, 2, value);
      if (value <= 0xffffffff) return this.#tagged(0xce, 4, value);
    } else {
      if (value >= -0x20) return this.#uint(1, 0x100 + value);
      if (value >= -0x80) return this.#tagged(0xd0, 1, 0x100 + value);
      if (value >= -0x8000) return this.#tagged(0xd1, 2, 0x10000 + value);
      if (value >= -0x80000000) return this.#tagged(0xd2, 4, 0x100000000 + value);
    }
    this.#bigint(BigInt(value));
  }

  #bigint(value: bigint): void {
    if (value !== BigInt.asUintN(64, value) && value !== BigInt.asIntN(64, value)) throw new RangeError("an integer over 64 bits");
    this.#uint(1, value >= 0n ? 0xcf : 0xd3);
    this.#view.setBigUint64(this.#reserve(8), BigInt.asUintN(64, value));
  }

  #string(value: string): void {
    const bytes = utf8.encode(value);
    this.#head(bytes.length, [0xa0, 31], 0xd9, 0xda, 0xdb);
    this.#append(bytes);
  }

  /** A length in the shortest of its forms. */
  #head(length: number, fix: [tag: number, max: number] | undefined, tag8: number | undefined, tag16: number, tag32: number): void {
    if (fix && length <= fix[1]) this.#uint(1, fix[0] | length);
    else if (tag8 !== undefined && length <= 0xff) this.#tagged(tag8, 1, length);
    else if (length <= 0xffff) this.#tagged(tag16, 2, length);
    else this.#tagged(tag32, 4, length);
  }

  #tagged(tag: number, size: 1 | 2 | 4, value: number): void {
    this.#uint(1, tag);
    this.#uint(size, value);
  }

  #uint(size: 1 | 2 | 4, value: number): void {
    const at = this.#reserve(size);
    if (size === 1) this.#view.setUint8(at, value);
    else if (size === 2) this.#view.setUint16(at, value);
    else this.#view.setUint32(at, value);
  }

  #append(bytes: Uint8Array): void {
    // Reserving may change the buffer: first that.
    const at = this.#reserve(bytes.length);
    this.#buffer.set(bytes, at);
  }

  #reserve(size: number): number {
    const at = this.#length;
    this.#length += size;
    if (this.#length > this.#buffer.length) {
      const grown = new Uint8Array(Math.max(this.#buffer.length * 2, this.#length));
      grown.set(this.#buffer.subarray(0, at));
      this.#buffer = grown;
      this.#view = new DataView(grown.buffer);
    }
    return at;
  }
}

class Reader {
  readonly #view: DataView;
  #at = 0;

  constructor(private readonly bytes: Uint8Array) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get atEnd(): boolean {
    return this.#at === this.bytes.length;
  }

  value(depth: number): unknown {
    if (depth > MAX_DEPTH) throw new RangeError("too deep");
    const tag = this.#uint(1);
    if (tag < 0x80) return tag;
    if (tag < 0x90) return this.#map(tag & 15, depth);
    if (tag < 0xa0) return this.#array(tag & 15, depth);
    if (tag < 0xc0) return this.#string(tag & 31);
    if (tag >= 0xe0) return tag - 0x100;
    return this.#tagged(tag, depth);
  }

  #tagged(tag: number, depth: number): unknown {
    switch (tag) {
      case 0xc0:
        return null;
      case 0xc2:
        return false;
      case 0xc3:
        return true;
      case 0xc4:
      case 0xc5:
      case 0xc6:
        return new Uint8Array(this.#take(this.#uint(SIZES[tag - 0xc4]!)));
      case 0xca:
        return this.#view.getFloat32(this.#skip(4));
      case 0xcb:
        return this.#view.getFloat64(this.#skip(8));
      case 0xcc:
      case 0xcd:
      case 0xce:
        return this.#uint(SIZES[tag - 0xcc]!);
      case 0xcf:
        return small(this.#view.getBigUint64(this.#skip(8)));
      case 0xd0:
        return this.#view.getInt8(this.#skip(1));
      case 0xd1:
        return this.#view.getInt16(this.#skip(2));
      case 0xd2:
        return this.#view.getInt32(this.#skip(4));
      case 0xd3:
        return small(this.#view.getBigInt64(this.#skip(8)));
      case 0xd9:
      case 0xda:
      case 0xdb:
        return this.#string(this.#uint(SIZES[tag - 0xd9]!));
      case 0xdc:
      case 0xdd:
        return this.#array(this.#uint(tag === 0xdc ? 2 : 4), depth);
      case 0xde:
      case 0xdf:
        return this.#map(this.#uint(tag === 0xde ? 2 : 4), depth);
      default:
        throw new TypeError(`tag 0x${tag.toString(16)} is not of the contract`);
    }
  }

  #array(length: number, depth: number): unknown[] {
    // Not sized ahead: the length is a claim, and each item takes a byte at least.
    const items: unknown[] = [];
    for (let i = 0; i < length; i++) items.push(this.value(depth + 1));
    return items;
  }

  #map(length: number, depth: number): Record<string, unknown> {
    const map: Record<string, unknown> = {};
    for (let i = 0; i < length; i++) {
      const key = this.value(depth + 1);
      if (typeof key !== "string") throw new TypeError("a map key that is not a string");
      const value = this.value(depth + 1);
      // As `JSON.parse` does: `__proto__` is a key like any other.
      if (key === "__proto__") Object.defineProperty(map, key, { value, writable: true, enumerable: true, configurable: true });
      else map[key] = value;
    }
    return map;
  }

  #string(length: number): string {
    return fromUtf8.decode(this.#take(length));
  }

  #take(length: number): Uint8Array {
    const from = this.#skip(length);
    return this.bytes.subarray(from, from + length);
  }

  #uint(size: 1 | 2 | 4): number {
    const at = this.#skip(size);
    return size === 1 ? this.#view.getUint8(at) : size === 2 ? this.#view.getUint16(at) : this.#view.getUint32(at);
  }

  #skip(size: number): number {
    const at = this.#at;
    if (size > this.bytes.length - at) throw new RangeError("the value is cut short");
    this.#at += size;
    return at;
  }
}

const SIZES = [1, 2, 4] as const;

/** A number where that is exact. */
function small(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}
