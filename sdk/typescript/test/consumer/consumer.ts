/** A program of somebody who has installed the package: compiled under each module resolution, and run. */

import { DrawbridgeError, type Codec, type Drawbridge, type Subscription } from "@drawbridge/client";
import { decode, msgpack } from "@drawbridge/client/msgpack";
import { useChannel } from "@drawbridge/client/react";

interface Game {
  [room: `room:${string}`]: { hit: { damage: number } };
}

export function listen(game: Drawbridge<Game>): Subscription<Game["room:1"]> {
  const room = game.subscribe("room:1");
  room.on("hit", ({ data }) => data.damage.toFixed());
  // @ts-expect-error the types are there: damage is a number
  room.on("hit", ({ data }) => data.damage.trim());
  return room;
}

export function Room({ game }: { game: Drawbridge<Game> }): null {
  const { state } = useChannel(game, "room:1", { on: { hit: ({ data }) => data.damage.toFixed() } });
  // @ts-expect-error the types of both entries are the same
  useChannel(game, "rooms:1");
  return state === "active" ? null : null;
}

const codec: Codec = msgpack;
const error = new DrawbridgeError("FORBIDDEN", "no right to subscribe");
const bytes = codec.encode({ error: error.name });
console.log(JSON.stringify(decode(bytes as Uint8Array)), error instanceof DrawbridgeError, typeof useChannel);
