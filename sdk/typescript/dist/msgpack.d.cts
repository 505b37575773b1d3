// Drawbridge's client, built from sdk/typescript by `npm run build`. Do not edit.
import { Codec } from './drawbridge.cjs';

/**
 * The contract's other encoding, `drawbridge.v1.msgpack`: smaller frames, bytes as bytes, and integers beyond 2^53,
 * which come and go as `bigint`. Pass it as the option `codec`. Ext types are not of the contract.
 */

declare const msgpack: Codec;
/** Throws on what MessagePack or the contract cannot say: functions, NaN, infinities, cycles, great depth. */
declare function encode(value: unknown): Uint8Array<ArrayBuffer>;
/** Throws on bytes that are not exactly one value. */
declare function decode(bytes: Uint8Array): unknown;

export { decode, encode, msgpack };
