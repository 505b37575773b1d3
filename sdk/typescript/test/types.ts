/** Checked by the compiler alone: what the types allow, and what they must not. */

import { connect, type ChannelEvent, type Drawbridge } from "../src/index.js";
import { useChannel, useConnection, useEntities } from "../src/react/index.js";

interface Game {
  "chat:lobby": { say: { text: string } };
  [room: `room:${string}`]: { hit: { damage: number }; end: null };
}

export function typed(): void {
  const game = connect<Game>("ws://127.0.0.1/ws");
  const room = game.subscribe("room:42", { filter: "data.damage > 10" });
  room.on("hit", ({ data }) => data.damage.toFixed());
  room.once("hit", ({ data }) => data.damage.toFixed());
  game.once("welcome", ({ player }) => player.trim());
  game.subscribe("room:*").onEvent((event) => {
    if (event.event === "hit") event.data.damage.toFixed();
  });
  game.channel("chat:lobby").on("say", ({ data }) => data.text.trim());
  void game.publish("chat:lobby", "say", { text: "hello" });
  void game.publish("room:42", "end");
  // @ts-expect-error there is no such event
  room.on("miss", () => {});
  // @ts-expect-error damage is a number
  void game.publish("room:42", "hit", { damage: "12" });
  // @ts-expect-error the lobby says `say`
  void game.publish("chat:lobby", "hit", { damage: 12 });
}

/** Whatever takes a channel takes those of the map alone. */
export async function channelNames(id: number, name: string): Promise<void> {
  const game = connect<Game>("ws://127.0.0.1/ws");
  game.subscribe(`room:${id}`).on("hit", ({ data }) => data.damage.toFixed());
  void game.publish(`room:${id}`, "hit", { damage: 12 });
  // @ts-expect-error a typo
  game.subscribe("chat:loby");
  // @ts-expect-error a typo in the family's prefix
  game.subscribe("rooms:42");
  // @ts-expect-error nothing says that it is one of them
  game.subscribe(name);
  // @ts-expect-error
  game.entities("rooms:42");
  // @ts-expect-error
  game.channel("rooms:42");
  // @ts-expect-error
  void game.unsubscribe("rooms:42");
  // @ts-expect-error
  void game.publish("rooms:42", "hit", { damage: 12 });
  // @ts-expect-error
  void game.history("rooms:42");
  // @ts-expect-error
  game.historyPages("rooms:42");
  // @ts-expect-error
  void game.presence("rooms:42");
  // @ts-expect-error
  game.presencePages("rooms:42");
}

interface Payloads {
  orders: { buy: { item: number }; cancel: undefined; note: string | null; sold: { item: number } | undefined; any: any; what: unknown };
}

interface Overlapping {
  "chat:lobby": { hit: { by: string }; say: { text: string } };
  [room: `room:${string}`]: { hit: { damage: number }; say: { text: string; loud?: boolean }; end: null };
}

/** What is published on one of several channels, or as one of several events, fits each. */
export function unions(channel: "chat:lobby" | "room:42", event: "hit" | "say"): void {
  const game = connect<Overlapping>("ws://127.0.0.1/ws");
  void game.publish(channel, "say", { text: "hello" });
  void game.publish(channel, "hit", { by: "bob", damage: 12 });
  // @ts-expect-error in a room, a hit has its damage
  void game.publish(channel, "hit", { by: "bob" });
  // @ts-expect-error the lobby has no such event
  void game.publish(channel, "end");
  void game.publish("room:42", event, { damage: 12, text: "hello" });
  // @ts-expect-error it may be something that is said
  void game.publish("room:42", event, { damage: 12 });
  game.subscribe(channel).on("hit", ({ data }) => ("by" in data ? data.by.trim() : data.damage.toFixed()));
}

/** Nothing that the library hands out is `any`, with or without a map. */
type IsAny<T> = 0 extends 1 & T ? true : false;
export function noAny(): void {
  const no = <T>(_value: T, is: IsAny<T>): void => void (is satisfies IsAny<T>);
  const untyped = connect("ws://127.0.0.1/ws");
  untyped.subscribe("x").on("y", ({ data, tags }) => (no(data, false), no(tags, false)));
  untyped.channel("x").onEvent(({ data }) => no(data, false));
  untyped.on("event", ({ data }) => no(data, false));
  untyped.on("error", ({ cause }) => no(cause, false));
  for (const { data } of untyped.entities("x")) no(data, false);
  void untyped.history("x").then(({ events: [event] }) => no(event?.data, false));
  void untyped.publish("x", "y").then(({ result }) => no(result, false));
  useChannel(untyped, "x", { on: { y: ({ data }) => no(data, false) }, onEvent: ({ data }) => no(data, false) });
  useEntities(untyped, "x").entities.map(({ data }) => no(data, false));
  const typed = connect<Overlapping>("ws://127.0.0.1/ws");
  typed.subscribe("room:42").onEvent(({ data }) => no(data, false));
  typed.entities("room:42").onLeave(({ data }, reason) => (no(data, false), no(reason, false)));
}

/** `data` may be absent only where the map says so. */
export function payloads(): void {
  const game = connect<Payloads>("ws://127.0.0.1/ws");
  // @ts-expect-error the item is missing
  void game.publish("orders", "buy");
  // @ts-expect-error it is missing here as well
  void game.publish("orders", "buy", {});
  // @ts-expect-error this stands in the place of `data`
  void game.publish("orders", "buy", { retry: true });
  void game.publish("orders", "buy", { item: 7 }, { retry: true });
  void game.publish("orders", "cancel");
  void game.publish("orders", "cancel", undefined, { retry: true });
  void game.publish("orders", "note");
  void game.publish("orders", "note", "thanks");
  void game.publish("orders", "sold");
  void game.publish("orders", "any");
  void game.publish("orders", "what", 7);
  // @ts-expect-error it carries nothing
  void game.publish("orders", "cancel", 7);
}

export function hooks({ id }: { id: number }): void {
  const game = connect<Game>("ws://127.0.0.1/ws");
  const { status, retryInMs } = useConnection(game);
  status satisfies string;
  retryInMs?.toFixed();
  const room = useChannel(game, `room:${id}`, {
    filter: "data.damage > 10",
    on: { hit: ({ data }) => data.damage.toFixed(), end: ({ data }) => data satisfies null },
    onEvent: (event) => event.event === "hit" && event.data.damage.toFixed(),
    onResync: ({ since }) => since?.offset.toFixed(),
  });
  room.error?.code.trim();
  useChannel(game, status === "open" ? "chat:lobby" : null);
  // @ts-expect-error a typo in the channel
  useChannel(game, "chat:loby");
  // @ts-expect-error a typo in the event
  useChannel(game, "chat:lobby", { on: { said() {} } });
  // @ts-expect-error the text is no number
  useChannel(game, "chat:lobby", { on: { say: ({ data }) => data.text.toFixed() } });
  const world = connect<World>("ws://127.0.0.1/ws");
  const { entities, stale } = useEntities(world, "world:1", { area: { x: 0, y: 0, radius: 50 } });
  stale satisfies boolean;
  for (const entity of entities) if (entity.event === "rest") entity.data.until.toFixed();
  // @ts-expect-error it belongs to React, too
  entities.push();
  const untyped = connect("ws://127.0.0.1/ws");
  useChannel(untyped, "any", { on: { thing: ({ data }) => data satisfies unknown } });
}

/** A map that declares some channels and lets every other name through. */
interface Open {
  "chat:lobby": { say: { text: string } };
  [room: `room:${string}`]: { hit: { damage: number } };
  [other: string]: Record<string, unknown>;
}

export function open(name: string): void {
  const game = connect<Open>("ws://127.0.0.1/ws");
  game.subscribe(name).on("x", (event: ChannelEvent<"x", unknown>) => event.data);
  game.subscribe("elsewhere").on("x", (event) => event.data satisfies unknown);
  game.subscribe("room:1").on("hit", ({ data }) => data.damage.toFixed());
  // @ts-expect-error what is declared stays strict
  game.subscribe("room:1").on("miss", () => {});
}

/** Code that knows no map takes every client. */
export function anyClient(game: Drawbridge<any>, name: string): void {
  game.subscribe(name).on("x", ({ data }) => data);
  void game.publish(name, "x");
}
anyClient satisfies (game: Drawbridge<Game>, name: string) => void;
anyClient satisfies (game: Drawbridge, name: string) => void;

export async function reads(): Promise<void> {
  const game = connect<Game>("ws://127.0.0.1/ws");
  const room = game.subscribe("room:42");
  room.onRecovered(({ channel }) => channel.trim());
  room.onPresence(({ joined, left }) => [...joined, ...left].map((player) => player.trim()));
  room.onResync(async ({ since }) => {
    for await (const { events } of game.historyPages("room:42", { ...(since && { since }), limit: 100 })) {
      for (const event of events) if (event.event === "hit") event.data.damage.toFixed();
    }
  });
  const { events, next } = await game.history("chat:lobby");
  events[0]?.data.text.trim();
  next?.offset.toFixed();
  const { players, total } = await game.presence("room:42", { limit: 10 });
  players[0]?.connections.toFixed(total);
  room.recovered satisfies boolean | undefined;
  const { local } = await game.publish("room:42", "hit", { damage: 1 }, { retry: true });
  local satisfies boolean | undefined;
  // @ts-expect-error a position has an epoch
  void game.history("room:42", { since: { offset: 7 } });
}

export function untyped(name: string): void {
  const game = connect("ws://127.0.0.1/ws", { token: async () => "jwt" });
  game.subscribe(name).on("hit", (event) => event.data satisfies unknown);
  void game.publish(name, "jump");
  void game.publish(name, "buy", { item: 7 }, { retry: true });
  game.subscribe("room:42").on("hit", (event) => console.log(event.from, event.data));
  void game.publish("room:42", "move", { x: 3, y: 4 }).then(({ offset }) => offset?.toFixed());
}

interface World {
  [world: `world:${string}`]: { move: { x: number; y: number; team: string }; rest: { until: number } };
}

export function entities(): void {
  const game = connect<World>("ws://127.0.0.1/ws");
  const world = game.entities("world:1", { area: { x: 0, y: 0, radius: 50 } });
  world.onEnter((entity) => {
    if (entity.event === "move") entity.data.team.trim();
    // @ts-expect-error one that rests is nowhere
    else entity.data.x.toFixed();
  });
  world.onUpdate((entity, previous) => entity.ts ?? previous.ts);
  world.onLeave(({ key }, reason) => reason === "reset" && key.trim());
  for (const { key } of world) world.get(key)?.event;
  const { subscription } = world;
  void subscription.area({ min: [0, 0], max: [1, 1] });
  void subscription.area({ follow: "e7", radius: 5 });
  void subscription.area(null);
  void subscription.filter("data.team == me.team");
  subscription.view.area satisfies object | undefined;
  // @ts-expect-error a circle has a radius
  void subscription.area({ x: 0, y: 0 });
  // @ts-expect-error a corner has two numbers
  game.subscribe("world:1", { area: { min: [0], max: [1, 1] } });
}
