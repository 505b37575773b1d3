import assert from "node:assert/strict";
import { test } from "node:test";
import { renderToString } from "react-dom/server";
import { useChannel, useConnection, useEntities } from "../dist/react.js";
import { connected, lost, settled, setup, told } from "./support/client.js";
import { act, createElement, page, recorder } from "./support/react.js";

/** Whatever the client still had to send is there, and it was nothing. */
async function assertQuiet(client, connection) {
  await act(() => settled(client, connection));
  assert.equal(connection.waiting, 0);
}

/** A page on a connected client whose subscription of `room:1` is confirmed. */
async function inRoom(t, useIt, properties = {}) {
  const { render, ...rest } = page(t);
  const all = await connected(t);
  const recorded = recorder((given) => useIt(all.client, given));
  await render(createElement(recorded.Component, properties));
  const request = await act(() => all.connection.confirm("room:1"));
  await assertQuiet(all.client, all.connection);
  const again = (next) => render(createElement(recorded.Component, next));
  return { ...all, ...rest, ...recorded, request, render, again };
}

test("useConnection shows the status, and why it changed", async (t) => {
  const { render } = page(t);
  const { server, client, runtime } = await setup(t);
  const { Component, shown, last } = recorder(() => useConnection(client));
  await render(createElement(Component));
  assert.equal(last().status, "closed");
  const connection = await act(async () => {
    const opening = client.connect();
    const accepted = await server.accept();
    await accepted.welcome();
    await opening;
    return accepted;
  });
  assert.equal(last().status, "open");
  const before = shown.length;
  await render(createElement(Component));
  assert.equal(shown.length, before, "another render shows the same object");
  await act(async () => {
    const down = lost(client);
    connection.socket.close(1012);
    await down;
  });
  assert.deepEqual([last().status, last().error.closeCode, last().retryInMs], ["connecting", 1012, 500]);
  await act(async () => {
    runtime.advance(500);
    const open = told(client, "status", ({ status }) => status === "open");
    await (await server.accept()).welcome();
    await open;
  });
  assert.deepEqual(last(), { status: "open", previous: "connecting" });
});

test("useChannel subscribes once, also in StrictMode, and ends the subscription when the component goes", async (t) => {
  const { client, connection, request, last, unmount } = await inRoom(t, (game) => useChannel(game, "room:1", { filter: "true", area: { x: 1, y: 2, radius: 3 } }));
  const { id: _, type: __, ...asked } = request;
  assert.deepEqual(asked, { channel: "room:1", filter: "true", area: { x: 1, y: 2, radius: 3 } });
  assert.deepEqual(last(), { state: "active" });
  await unmount();
  assert.equal((await connection.next("CHANNEL_UNSUBSCRIBE")).channel, "room:1");
  assert.deepEqual(client.subscriptions, []);
  await assertQuiet(client, connection);
});

test("a render with equal options sends nothing and shows the same snapshot", async (t) => {
  const { client, connection, shown, again } = await inRoom(t, (game) => useChannel(game, "room:1", { filter: "true", area: { min: [0, 0], max: [1, 1] }, on: { hit() {} } }));
  const before = shown.length;
  await again({ other: 1 });
  await again({ other: 2 });
  await assertQuiet(client, connection);
  assert.equal(shown.length, before);
});

test("another filter or area changes the subscription in place", async (t) => {
  const { client, connection, again } = await inRoom(t, (game, view) => useChannel(game, "room:1", view), { filter: "a" });
  await again({ filter: "b" });
  assert.equal((await connection.confirmUpdate("room:1")).filter, "b");
  await again({ area: { x: 0, y: 0, radius: 5 } });
  const { filter, area } = await connection.confirmUpdate("room:1");
  assert.deepEqual([filter, area], [null, { x: 0, y: 0, radius: 5 }]);
  await assertQuiet(client, connection);
});

test("handlers are those of the last render, and each is called once for an event", async (t) => {
  const heard = [];
  const use = (game, { name }) =>
    useChannel(game, "room:1", {
      on: { hit: ({ data }) => heard.push([name, data]) },
      onEvent: ({ event }) => heard.push([name, event]),
      onResync: ({ reason }) => heard.push([name, reason]),
    });
  const { client, connection, again } = await inRoom(t, use, { name: "first" });
  const drain = async () => (await act(() => settled(client, connection)), heard.splice(0));
  connection.event("room:1", "hit", 12);
  assert.deepEqual(await drain(), [["first", 12], ["first", "hit"]]);
  await again({ name: "second" });
  connection.event("room:1", "hit", 13);
  connection.send({ type: "RESYNC", channel: "room:1", reason: "gap", epoch: "e1", offset: 1 });
  assert.deepEqual(await drain(), [["second", 13], ["second", "hit"], ["second", "gap"]]);
});

test("an event that is called like a method of objects finds no handler", async (t) => {
  const heard = [];
  const { client, connection, errors } = await inRoom(t, (game) => useChannel(game, "room:1", { on: {}, onEvent: ({ event }) => heard.push(event) }));
  for (const name of ["constructor", "toString", "__proto__"]) connection.event("room:1", name, null);
  await act(() => settled(client, connection));
  assert.deepEqual([heard, errors], [["constructor", "toString", "__proto__"], []]);
});

test("a handler that throws is reported, and the other one is called all the same", async (t) => {
  const heard = [];
  const thrower = () => {
    throw new Error("mine");
  };
  const { client, connection, errors } = await inRoom(t, (game) => useChannel(game, "room:1", { on: { hit: thrower }, onEvent: ({ event }) => heard.push(event) }));
  connection.event("room:1", "hit", null);
  await act(() => settled(client, connection));
  assert.deepEqual([heard, errors.map(({ code }) => code)], [["hit"], ["LISTENER"]]);
});

test("components share a subscription; the last one ends it", async (t) => {
  const { render } = page(t);
  const { client, connection } = await connected(t);
  const scene = recorder(() => useChannel(client, "room:1", { filter: "data.near" }));
  const list = recorder(() => useChannel(client, "room:1"));
  await render(createElement(scene.Component, { key: "scene" }), createElement(list.Component, { key: "list" }));
  const { filter } = await act(() => connection.confirm("room:1"));
  assert.equal(filter, "data.near", "one that names no filter leaves it to the others");
  await assertQuiet(client, connection);
  assert.deepEqual([scene.last(), list.last()], [{ state: "active" }, { state: "active" }]);
  await render(createElement(list.Component, { key: "list" }));
  assert.equal((await connection.confirmUpdate("room:1")).filter, null);
  await assertQuiet(client, connection);
  await render();
  await connection.next("CHANNEL_UNSUBSCRIBE");
});

test("a component that replaces another one on the same channel takes the subscription over", async (t) => {
  const { client, connection, render } = await inRoom(t, (game) => useChannel(game, "room:1"));
  const next = recorder(() => useChannel(client, "room:1"));
  await render(createElement(next.Component, { key: "next" }));
  await assertQuiet(client, connection);
  assert.deepEqual(next.last(), { state: "active" });
});

test("the application's own subscription is used, and left as it was", async (t) => {
  const { render } = page(t);
  const { client, connection } = await connected(t);
  const room = client.subscribe("room:1", { filter: "mine" });
  await connection.confirm("room:1");
  await room.ready;
  const { Component, last } = recorder((view) => useChannel(client, "room:1", view));
  await render(createElement(Component));
  await assertQuiet(client, connection);
  assert.deepEqual(last(), { state: "active" });
  await render(createElement(Component, { filter: "other" }));
  assert.equal((await connection.confirmUpdate("room:1")).filter, "other");
  await render();
  assert.equal((await connection.confirmUpdate("room:1")).filter, "mine");
  await assertQuiet(client, connection);
  assert.equal(room.state, "active");
});

test("another channel ends the subscription of the first; `null` subscribes to nothing", async (t) => {
  const { client, connection, again, last } = await inRoom(t, (game, { channel = "room:1" }) => useChannel(game, channel));
  await again({ channel: "room:2" });
  const kinds = [await connection.next("CHANNEL_UNSUBSCRIBE"), await connection.next("CHANNEL_SUBSCRIBE")];
  assert.deepEqual(kinds.map(({ channel }) => channel), ["room:1", "room:2"]);
  assert.deepEqual(last(), { state: "pending" });
  await again({ channel: null });
  assert.equal((await connection.next("CHANNEL_UNSUBSCRIBE")).channel, "room:2");
  assert.deepEqual([last(), client.subscriptions], [{ state: "pending" }, []]);
});

test("a refusal is the state `ended` with its error, and another view asks again", async (t) => {
  const { render } = page(t);
  const { client, connection } = await connected(t);
  const { Component, last } = recorder((view) => useChannel(client, "room:1", view));
  await render(createElement(Component, { filter: "nonsense" }));
  await act(async () => {
    const { id } = await connection.next("CHANNEL_SUBSCRIBE");
    connection.send({ type: "ERROR", id, channel: "room:1", code: "FILTER_INVALID", message: "unknown name", retryable: false });
    await settled(client, connection);
  });
  assert.deepEqual([last().state, last().error.code], ["ended", "FILTER_INVALID"]);
  await render(createElement(Component, { filter: "nonsense", other: 1 }));
  await assertQuiet(client, connection);
  await render(createElement(Component, { filter: "true" }));
  await act(() => connection.confirm("room:1"));
  await assertQuiet(client, connection);
  assert.deepEqual(last(), { state: "active" });
});

test("a refused change leaves the subscription active, with the error", async (t) => {
  const { client, connection, again, last } = await inRoom(t, (game, view) => useChannel(game, "room:1", view), { filter: "a" });
  await again({ filter: "nonsense" });
  await act(async () => {
    const { id } = await connection.next("FILTER_UPDATE");
    connection.send({ type: "ERROR", id, channel: "room:1", code: "FILTER_INVALID", message: "unknown name", retryable: false });
    await settled(client, connection);
  });
  assert.deepEqual([last().state, last().error.code], ["active", "FILTER_INVALID"]);
  await again({ area: { x: 0, y: 0, radius: Number.NaN } });
  assert.equal(last().error.code, "FILTER_INVALID", "an area that no message can carry");
  await assertQuiet(client, connection);
});

test("a reconnect is `pending` until the server has confirmed it again", async (t) => {
  const { server, client, runtime, connection, last } = await inRoom(t, (game) => useChannel(game, "room:1"));
  await act(async () => {
    const down = lost(client);
    connection.socket.terminate();
    await down;
  });
  assert.deepEqual(last(), { state: "pending" });
  await act(async () => {
    runtime.advance(500);
    const next = await server.accept();
    assert.deepEqual((await next.welcome()).subscribe, [{ channel: "room:1" }]);
    await settled(client, next);
  });
  assert.deepEqual(last(), { state: "active" });
});

test("useEntities renders once for all that arrives together, and keeps its array while nothing changes", async (t) => {
  const { client, connection, shown, last, again } = await inRoom(t, (game) => useEntities(game, "room:1", { area: { x: 0, y: 0, radius: 9 } }));
  assert.deepEqual([last().entities, last().stale, last().state], [[], true, "active"]);
  const before = shown.length;
  connection.enter("room:1", Object.fromEntries(Array.from({ length: 50 }, (_, n) => [`e${n}`, { n }])), { reset: true });
  await act(() => settled(client, connection));
  assert.equal(shown.length, before + 1);
  assert.deepEqual([last().entities.length, last().stale], [50, false]);
  const { entities } = last();
  await again({ other: 1 });
  assert.equal(last().entities, entities);
  connection.leave("room:1", ["e0"]);
  connection.event("room:1", "move", { n: 100 }, { key: "e1" });
  await act(() => settled(client, connection));
  assert.deepEqual([last().entities.length, last().entities[0].data], [49, { n: 100 }]);
  assert.equal(entities.length, 50, "what was shown before is not changed");
});

test("useEntities keeps showing what it had while the table is stale", async (t) => {
  const { client, connection, last } = await inRoom(t, (game) => useEntities(game, "room:1"));
  connection.enter("room:1", { a: {}, b: {} }, { reset: true });
  await act(() => settled(client, connection));
  const { entities } = last();
  connection.send({ type: "RESYNC", channel: "room:1", reason: "gap" });
  await act(() => settled(client, connection));
  assert.deepEqual([last().stale, last().entities.length], [true, 2]);
  connection.enter("room:1", { b: {} }, { reset: true });
  await act(() => settled(client, connection));
  assert.deepEqual([last().stale, last().entities.map(({ key }) => key)], [false, ["b"]]);
  await act(async () => {
    const down = lost(client);
    connection.socket.terminate();
    await down;
  });
  assert.deepEqual([last().stale, last().state, last().entities.map(({ key }) => key)], [true, "pending", ["b"]]);
  assert.equal(entities.length, 2);
});

test("useEntities of a pattern is a mistake that shows at once", async (t) => {
  const { client } = await setup(t);
  const { Component } = recorder(() => useEntities(client, "room:*"));
  assert.throws(() => renderToString(createElement(Component)), /room:\* is a pattern/);
});

test("a server renders the beginning, and subscribes to nothing", async (t) => {
  const { client } = await setup(t);
  function All() {
    return JSON.stringify([useConnection(client).status, useChannel(client, "room:1"), useEntities(client, "world:1")]);
  }
  const html = renderToString(createElement(All)).replaceAll("&quot;", '"');
  assert.equal(html, '["connecting",{"state":"pending"},{"state":"pending","entities":[],"stale":true}]');
  assert.deepEqual(client.subscriptions, []);
});
