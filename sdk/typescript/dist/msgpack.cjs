// Drawbridge's client, built from sdk/typescript by `npm run build`. Do not edit.
"use strict";
var __defProp = Object.defineProperty;
var __getOwnPropDesc = Object.getOwnPropertyDescriptor;
var __getOwnPropNames = Object.getOwnPropertyNames;
var __hasOwnProp = Object.prototype.hasOwnProperty;
var __export = (target, all) => {
  for (var name in all)
    __defProp(target, name, { get: all[name], enumerable: true });
};
var __copyProps = (to, from, except, desc) => {
  if (from && typeof from === "object" || typeof from === "function") {
    for (let key of __getOwnPropNames(from))
      if (!__hasOwnProp.call(to, key) && key !== except)
        __defProp(to, key, { get: () => from[key], enumerable: !(desc = __getOwnPropDesc(from, key)) || desc.enumerable });
  }
  return to;
};
var __toCommonJS = (mod) => __copyProps(__defProp({}, "__esModule", { value: true }), mod);

// src/msgpack.ts
var msgpack_exports = {};
__export(msgpack_exports, {
  decode: () => decode,
  encode: () => encode,
  msgpack: () => msgpack
});
module.exports = __toCommonJS(msgpack_exports);
var MAX_DEPTH = 80;
var utf8 = new TextEncoder();
var fromUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
var msgpack = {
  subprotocol: "drawbridge.v1.msgpack",
  encode: (message) => encode(message),
  decode(frame) {
    if (typeof frame === "string") throw new TypeError("a text frame on a MessagePack connection");
    return decode(new Uint8Array(frame));
  }
};
function encode(value) {
  const writer = new Writer();
  writer.value(value, 0);
  return writer.bytes();
}
function decode(bytes) {
  const reader = new Reader(bytes);
  const value = reader.value(0);
  if (!reader.atEnd) throw new RangeError("bytes behind the value");
  return value;
}
var Writer = class {
  #buffer = new Uint8Array(256);
  #view = new DataView(this.#buffer.buffer);
  #length = 0;
  bytes() {
    return this.#buffer.slice(0, this.#length);
  }
  value(value, depth) {
    if (depth > MAX_DEPTH) throw new RangeError("too deep");
    if (value === null || value === void 0) return this.#uint(1, 192);
    switch (typeof value) {
      case "boolean":
        return this.#uint(1, value ? 195 : 194);
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
  #object(value, depth) {
    if (value instanceof Uint8Array) {
      this.#head(value.length, void 0, 196, 197, 198);
      return this.#append(value);
    }
    if (Array.isArray(value)) {
      this.#head(value.length, [144, 15], void 0, 220, 221);
      for (const item of value) this.value(item, depth + 1);
      return;
    }
    const json = value.toJSON;
    if (typeof json === "function") return this.value(json.call(value), depth + 1);
    const entries = Object.entries(value).filter(([, item]) => item !== void 0);
    this.#head(entries.length, [128, 15], void 0, 222, 223);
    for (const [key, item] of entries) {
      this.#string(key);
      this.value(item, depth + 1);
    }
  }
  #number(value) {
    if (!Number.isFinite(value)) throw new RangeError(`${value} is no data`);
    if (Number.isSafeInteger(value) && !Object.is(value, -0)) return this.#integer(value);
    this.#uint(1, 203);
    this.#view.setFloat64(this.#reserve(8), value);
  }
  #integer(value) {
    if (value >= 0) {
      if (value < 128) return this.#uint(1, value);
      if (value <= 255) return this.#tagged(204, 1, value);
      if (value <= 65535) return this.#tagged(205, 2, value);
      if (value <= 4294967295) return this.#tagged(206, 4, value);
    } else {
      if (value >= -32) return this.#uint(1, 256 + value);
      if (value >= -128) return this.#tagged(208, 1, 256 + value);
      if (value >= -32768) return this.#tagged(209, 2, 65536 + value);
      if (value >= -2147483648) return this.#tagged(210, 4, 4294967296 + value);
    }
    this.#bigint(BigInt(value));
  }
  #bigint(value) {
    if (value !== BigInt.asUintN(64, value) && value !== BigInt.asIntN(64, value)) throw new RangeError("an integer over 64 bits");
    this.#uint(1, value >= 0n ? 207 : 211);
    this.#view.setBigUint64(this.#reserve(8), BigInt.asUintN(64, value));
  }
  #string(value) {
    const bytes = utf8.encode(value);
    this.#head(bytes.length, [160, 31], 217, 218, 219);
    this.#append(bytes);
  }
  /** A length in the shortest of its forms. */
  #head(length, fix, tag8, tag16, tag32) {
    if (fix && length <= fix[1]) this.#uint(1, fix[0] | length);
    else if (tag8 !== void 0 && length <= 255) this.#tagged(tag8, 1, length);
    else if (length <= 65535) this.#tagged(tag16, 2, length);
    else this.#tagged(tag32, 4, length);
  }
  #tagged(tag, size, value) {
    this.#uint(1, tag);
    this.#uint(size, value);
  }
  #uint(size, value) {
    const at = this.#reserve(size);
    if (size === 1) this.#view.setUint8(at, value);
    else if (size === 2) this.#view.setUint16(at, value);
    else this.#view.setUint32(at, value);
  }
  #append(bytes) {
    const at = this.#reserve(bytes.length);
    this.#buffer.set(bytes, at);
  }
  #reserve(size) {
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
};
var Reader = class {
  constructor(bytes) {
    this.bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }
  bytes;
  #view;
  #at = 0;
  get atEnd() {
    return this.#at === this.bytes.length;
  }
  value(depth) {
    if (depth > MAX_DEPTH) throw new RangeError("too deep");
    const tag = this.#uint(1);
    if (tag < 128) return tag;
    if (tag < 144) return this.#map(tag & 15, depth);
    if (tag < 160) return this.#array(tag & 15, depth);
    if (tag < 192) return this.#string(tag & 31);
    if (tag >= 224) return tag - 256;
    return this.#tagged(tag, depth);
  }
  #tagged(tag, depth) {
    switch (tag) {
      case 192:
        return null;
      case 194:
        return false;
      case 195:
        return true;
      case 196:
      case 197:
      case 198:
        return new Uint8Array(this.#take(this.#uint(SIZES[tag - 196])));
      case 202:
        return this.#view.getFloat32(this.#skip(4));
      case 203:
        return this.#view.getFloat64(this.#skip(8));
      case 204:
      case 205:
      case 206:
        return this.#uint(SIZES[tag - 204]);
      case 207:
        return small(this.#view.getBigUint64(this.#skip(8)));
      case 208:
        return this.#view.getInt8(this.#skip(1));
      case 209:
        return this.#view.getInt16(this.#skip(2));
      case 210:
        return this.#view.getInt32(this.#skip(4));
      case 211:
        return small(this.#view.getBigInt64(this.#skip(8)));
      case 217:
      case 218:
      case 219:
        return this.#string(this.#uint(SIZES[tag - 217]));
      case 220:
      case 221:
        return this.#array(this.#uint(tag === 220 ? 2 : 4), depth);
      case 222:
      case 223:
        return this.#map(this.#uint(tag === 222 ? 2 : 4), depth);
      default:
        throw new TypeError(`tag 0x${tag.toString(16)} is not of the contract`);
    }
  }
  #array(length, depth) {
    const items = [];
    for (let i = 0; i < length; i++) items.push(this.value(depth + 1));
    return items;
  }
  #map(length, depth) {
    const map = {};
    for (let i = 0; i < length; i++) {
      const key = this.value(depth + 1);
      if (typeof key !== "string") throw new TypeError("a map key that is not a string");
      const value = this.value(depth + 1);
      if (key === "__proto__") Object.defineProperty(map, key, { value, writable: true, enumerable: true, configurable: true });
      else map[key] = value;
    }
    return map;
  }
  #string(length) {
    return fromUtf8.decode(this.#take(length));
  }
  #take(length) {
    const from = this.#skip(length);
    return this.bytes.subarray(from, from + length);
  }
  #uint(size) {
    const at = this.#skip(size);
    return size === 1 ? this.#view.getUint8(at) : size === 2 ? this.#view.getUint16(at) : this.#view.getUint32(at);
  }
  #skip(size) {
    const at = this.#at;
    if (size > this.bytes.length - at) throw new RangeError("the value is cut short");
    this.#at += size;
    return at;
  }
};
var SIZES = [1, 2, 4];
function small(value) {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}
// Annotate the CommonJS export names for ESM import in node:
0 && (module.exports = {
  decode,
  encode,
  msgpack
});
