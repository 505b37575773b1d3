// The playground: two players in one page, each with a client of its own, talking through the server that served it.
//
// `/dev/session` tells who they are, and of the world:
//   {"players":[{"player","token","team","subscribe":[…],"publish":[…]}, …], "redis":null|"redis://…", "admin":"http://…",
//    "world":{"channel","width","height","entities","updates_per_second"}, "chat":"room:…"}
// `subscribe` and `publish` are the channels (and patterns) that the page suggests to the player.
// The server's demo moves entities {id, team, x, y, public} on the world's channel, and publishes `tick` {x, y, name} to
// `game:demo`; players publish `move` {x, y} there, and `chat` {text} on the channel `chat`, which has history.
//
// Test ids. Of the page: banner, panes, node, broker, server-time, recipe-tabs, recipe-tab-{redis-cli,python,node,rust,http},
// recipe-text, recipe-copy, recipe-note. Of a player, after `alice-` or `bob-`: pane, name, team, status, detail, world,
// seen, updates, bytes, share, broadcast, rtt, offset, latency, count, autopilot, cut, subscriptions (of it:
// subscription-{channel}, unsubscribe-{channel}), subscribe-input, subscribe-suggestions, subscribe-add,
// subscribe-result, filter-channel, filter-input, filter-apply, filter-clear, filter-presets, filter-error, filter-result,
// chat-input, chat-send, move, publish-channel, publish-suggestions, publish-event, publish-data, publish-send, publish-result, feed. An entry of the feed carries
// data-channel, data-event, data-from, data-times and, for what was missed and came after a resume, data-missed. `window.playground.seen(player)` tells what is in a player's table,
// `window.playground.area(player)` its area.

import { Drawbridge, json } from "/drawbridge.js";
import { Traffic, WorldView } from "/world.js";

const DEMO = "game:demo";
/** The class's `max_radius` (dev.toml). */
const MAX_RADIUS = 60;
const RADIUS = 26;
/** How often the server is asked for the area, if it has changed. */
const LOOK_MS = 50;
/** How long *Drop connection* keeps a player away. */
const AWAY_MS = 4_000;
/** Units a second, for those who play by themselves. */
const WALK = 9;
const FEED_ROWS = 60;
/** A row that is among the newest few counts up in place, so that ticks do not push everything else away. */
const FEED_MERGE = 5;
const FILTERS = ["event != 'tick'", "event == 'chat'", "data.x > 50", "from != me.player", "data.x >"];
const WORLD_FILTERS = ["data.team == me.team", "data.team != me.team", "data.public == true", "data.y < 50", "data.y <"];
/** So that the two see different things before anybody has typed. */
const FIRST_FILTERS = [null, "event != 'tick' || data.x > 50"];
const LINES = [
  "anyone at the east gate?",
  "on my way",
  "watch the ones in the middle",
  "got it, going round",
  "your half of the map is quiet",
  "not for long",
];

const byTestId = (id) => document.querySelector(`[data-testid="${CSS.escape(id)}"]`);
const clockText = (ms) => new Date(ms).toISOString().slice(11, 19);
const oneOf = (list) => list[Math.floor(Math.random() * list.length)];
const kilobytes = (bytes) => `${(bytes / 1_000).toFixed(bytes < 10_000 ? 1 : 0)} kB`;

function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  const { dataset, ...rest } = properties;
  Object.assign(node, rest);
  Object.assign(node.dataset, dataset);
  node.append(...children);
  return node;
}

/** An answer of the server, under the control that asked. */
function say(node, kind, text) {
  node.dataset.kind = kind;
  node.textContent = text;
}

const describe = (error) => `${error.code ?? error.name}: ${error.message}`;

/** What came, newest first. */
class Feed {
  #list;
  #teams;

  constructor(list, teams) {
    this.#list = list;
    this.#teams = teams;
  }

  /** `missed`: it was published while the player was away. */
  add({ channel, event, from, data }, atMs, missed = false) {
    const key = JSON.stringify([channel, event, from ?? "", missed]);
    const row = event === "chat" ? undefined : [...this.#list.children].slice(0, FEED_MERGE).find((row) => row.dataset.key === key);
    if (row) this.#fill(row, data, atMs, Number(row.dataset.times) + 1);
    else this.#prepend({ key, channel, event, from: from ?? "", ...(missed && { missed }) }, data, atMs);
  }

  #prepend(dataset, data, atMs) {
    const { channel, event, from } = dataset;
    const row = element(
      "li",
      { dataset, title: dataset.missed ? "Published while this player was away" : "" },
      element("span", { className: "time" }),
      element("span", { className: "channel", textContent: channel, title: channel }),
      element("span", { className: "event", textContent: event, title: event }),
      element("span", { className: "from", textContent: from || "server", dataset: { team: this.#teams[from] ?? "" } }),
      element("span", { className: "data" }),
      element("span", { className: "times" }),
    );
    this.#fill(row, data, atMs, 1);
    this.#list.prepend(row);
    while (this.#list.children.length > FEED_ROWS) this.#list.lastChild.remove();
  }

  #fill(row, data, atMs, times) {
    const text = JSON.stringify(data);
    row.dataset.times = times;
    row.querySelector(".time").textContent = clockText(atMs);
    row.querySelector(".data").textContent = text;
    row.querySelector(".data").title = text.slice(0, 500);
    row.querySelector(".times").textContent = times > 1 ? `×${times}` : "";
  }
}

/** One player: a client, its pane, and what it does by itself. */
class Player {
  #parts = {};
  #sockets = [];
  #filters = new Map();
  #latencies = [];
  #events = 0;
  #said = 0;
  /** *Drop connection* was pressed: when the player was last there, and when it may come back. */
  #dropped = { at: Infinity, until: 0 };
  /** Events that came after the resume and were published before it. */
  #missed = 0;
  /** When the present connection began. */
  #backAt = 0;
  #heading = Math.random() * 2 * Math.PI;
  /** Of whom it has heard. */
  heard = new Set();

  constructor(index, info, session, onHeard) {
    this.index = index;
    this.info = info;
    this.session = session;
    this.onHeard = onHeard;
    this.#build();
    const teams = Object.fromEntries(session.players.map(({ player, team }) => [player, team]));
    this.teams = teams;
    this.traffic = new Traffic(session.world.channel);
    this.view = this.#makeView();
    this.feed = new Feed(this.#parts.feed, teams);
    this.client = this.#makeClient();
    this.#listen();
    this.#control();
  }

  async start() {
    this.client.connect().catch((error) => say(this.#parts.detail, "bad", describe(error)));
    this.#look();
    const first = FIRST_FILTERS[this.index] ?? null;
    const demo = this.client.subscribe(DEMO);
    this.#filters.set(DEMO, "");
    await demo.ready;
    this.#playByItself();
    if (first) await this.#applyFilter(DEMO, first);
  }

  #build() {
    const { player, team } = this.info;
    const pane = document.getElementById("pane").content.firstElementChild.cloneNode(true);
    pane.dataset.testid = `${player}-pane`;
    pane.dataset.team = team ?? "";
    for (const part of pane.querySelectorAll("[data-part]")) {
      this.#parts[part.dataset.part] = part;
      part.dataset.testid = `${player}-${part.dataset.part}`;
    }
    this.#parts.name.textContent = player;
    this.#parts.team.textContent = team ? `team ${team}` : "";
    this.#parts["publish-channel"].value = DEMO;
    this.#suggest("subscribe-input", "subscribe-suggestions", this.info.subscribe);
    this.#suggest("publish-channel", "publish-suggestions", this.info.publish);
    byTestId("panes").append(pane);
  }

  #suggest(input, list, channels) {
    const { [input]: field, [list]: suggestions } = this.#parts;
    suggestions.id = suggestions.dataset.testid;
    suggestions.append(...channels.map((value) => element("option", { value })));
    field.setAttribute("list", suggestions.id);
  }

  /** The two begin where their areas meet. */
  #makeView() {
    const { width, height } = this.session.world;
    const centre = { x: width * (0.42 + 0.16 * this.index), y: height * (0.45 + 0.1 * this.index) };
    const size = { width, height, maxRadius: MAX_RADIUS };
    return new WorldView(this.#parts.world, size, this.info.team, centre, RADIUS, () => this.#tellMove());
  }

  #makeClient() {
    const sockets = this.#sockets;
    const { traffic } = this;
    // Only so that the page can break the link; a game passes nothing here.
    class Breakable extends WebSocket {
      constructor(...given) {
        super(...given);
        sockets[0] = this;
      }
    }
    // Nor this, which counts what comes.
    const codec = {
      ...json,
      decode(frame) {
        const decoded = json.decode(frame);
        traffic.saw(frame, decoded);
        return decoded;
      },
    };
    return new Drawbridge("/ws", { token: (reason) => this.#token(reason), WebSocket: Breakable, codec });
  }

  /** The area is told to the server whenever it has changed. */
  #look() {
    const { channel } = this.session.world;
    this.#openTable();
    this.client.on("subscribed", (info) => info.channel === channel && this.table.subscription.state === "ended" && this.#openTable());
    setInterval(() => {
      const { subscription, stale, size } = this.table;
      if (subscription.state === "ended") return;
      this.view.note = stale && size > 0 ? "what you see may be out of date" : "";
      void subscription.area(this.view.area);
    }, LOOK_MS);
  }

  /** The world's table, drawn. */
  #openTable() {
    const { view } = this;
    const { channel } = this.session.world;
    this.table = this.client.entities(channel, { area: view.area });
    this.#filters.set(channel, "");
    this.table.onEnter((entity) => view.show(entity));
    this.table.onUpdate((entity) => view.show(entity));
    this.table.onLeave((entity) => view.hide(entity));
    this.table.synced.catch((error) => (view.note = describe(error)));
  }

  async #token(reason) {
    // A game does not wait here: this keeps the player away for a while.
    const awayMs = this.#dropped.until - performance.now();
    if (awayMs > 0) await new Promise((resolve) => setTimeout(resolve, awayMs));
    if (reason === "connect") return this.info.token;
    const session = await fetchSession();
    return session.players.find(({ player }) => player === this.info.player)?.token ?? this.info.token;
  }

  #listen() {
    const { client } = this;
    const { status, detail } = this.#parts;
    client.on("status", (change) => {
      status.dataset.status = status.textContent = change.status;
      const retry = change.retryInMs === undefined ? "" : `; back in ${(change.retryInMs / 1000).toFixed(1)} s`;
      if (change.error) say(detail, "bad", `${change.error.message}${retry}`);
      this.#showSubscriptions();
    });
    client.on("welcome", ({ connection, node }) => {
      this.#missed = 0;
      this.#backAt = client.clock.now();
      this.#showConnection();
      byTestId("node").textContent = node;
    });
    client.on("event", (event) => this.#heard(event));
    client.on("resync", ({ channel, reason }) => this.feed.add({ channel, event: "resync", data: reason }, client.clock.now()));
    client.on("subscribed", () => this.#showSubscriptions());
    client.on("unsubscribed", ({ channel }) => {
      this.#filters.delete(channel);
      this.#showSubscriptions();
    });
    client.on("goodbye", ({ reason, reconnectInMs }) => say(detail, "", `the server says goodbye (${reason}); back in ${reconnectInMs} ms`));
    // Each control shows its own errors; these are the rest.
    client.on("error", (error) => console.debug(this.info.player, describe(error)));
  }

  #showConnection() {
    const { connection, node, resumed } = this.client.welcome;
    const missed = this.#missed === 1 ? "1 missed event has" : `${this.#missed} missed events have`;
    say(this.#parts.detail, "", `connection ${connection} on ${node}${resumed ? `: resumed, ${missed} arrived` : ""}`);
  }

  /** Whether it was published while this player was away. */
  #wasMissed({ ts }) {
    return this.client.welcome?.resumed === true && ts > this.#dropped.at && ts < this.#backAt;
  }

  #heard(event) {
    // The world is drawn, and has its own meters.
    if (event.channel === this.session.world.channel) return;
    const now = this.client.clock.now();
    this.#events++;
    if (event.ts !== undefined) this.#latencies.push(now - event.ts);
    if (this.#latencies.length > 50) this.#latencies.shift();
    const missed = this.#wasMissed(event);
    this.feed.add(event, now, missed);
    if (missed) {
      this.#missed++;
      this.#showConnection();
    }
    const { data, from } = event;
    if (event.event === "move" && from && from !== this.info.player && data) this.view.showPlayer(from, data, this.teams[from]);
    if (from && from !== this.info.player && !this.heard.has(from)) {
      this.heard.add(from);
      this.onHeard();
    }
  }

  #control() {
    const parts = this.#parts;
    const submit = (form, action) =>
      form.addEventListener("submit", (event) => {
        event.preventDefault();
        void action();
      });
    parts.cut.addEventListener("click", () => this.#drop());
    submit(parts["subscribe-form"], () => this.#subscribe(parts["subscribe-input"].value.trim()));
    submit(parts["filter-form"], () => this.#applyFilter(parts["filter-channel"].value, parts["filter-input"].value.trim()));
    parts["filter-clear"].addEventListener("click", () => void this.#applyFilter(parts["filter-channel"].value, ""));
    parts["filter-channel"].addEventListener("change", () => this.#showFilter());
    submit(parts["chat-form"], () => {
      const text = parts["chat-input"].value.trim() || oneOf(LINES);
      parts["chat-input"].value = "";
      return this.#publish(this.session.chat, "chat", { text });
    });
    parts.move.addEventListener("click", () => {
      const { width, height } = this.session.world;
      this.view.moveTo(Math.random() * width, Math.random() * height);
      this.#tellMove();
    });
    this.#showFilter();
    submit(parts["publish-form"], () => this.#publishTyped());
  }

  /** As when the network breaks, as far as a page can do that: any code but 1000 keeps the session. */
  #drop() {
    this.#dropped = { at: this.client.clock.now(), until: performance.now() + AWAY_MS };
    this.#sockets[0]?.close(4002, "dropped by hand");
  }

  async #subscribe(channel) {
    if (!channel) return;
    const result = this.#parts["subscribe-result"];
    say(result, "", `subscribing to ${channel} …`);
    try {
      const subscription = this.client.subscribe(channel);
      if (!this.#filters.has(channel)) this.#filters.set(channel, "");
      this.#showSubscriptions();
      await subscription.ready;
      this.#parts["subscribe-input"].value = "";
      say(result, "good", `subscribed to ${channel}`);
    } catch (error) {
      say(result, "bad", describe(error));
    }
    this.#showSubscriptions();
  }

  async #applyFilter(channel, filter) {
    const { "filter-input": input, "filter-error": explained, "filter-result": result } = this.#parts;
    if (!channel) return;
    if (channel === this.#parts["filter-channel"].value) input.value = filter;
    explained.hidden = true;
    say(result, "", "…");
    try {
      // For one that the server's templates made, this asks for it by name as well.
      const subscription = this.client.subscribe(channel);
      await subscription.filter(filter || null);
      this.#filters.set(channel, filter);
      say(result, "good", filter ? `${channel}: only where ${filter}` : `${channel}: everything`);
    } catch (error) {
      say(result, "", `${channel}: as before${this.#filters.get(channel) ? `, only where ${this.#filters.get(channel)}` : ""}`);
      explained.textContent = explain(filter, error);
      explained.hidden = false;
    }
    this.#showSubscriptions();
  }

  async #publishTyped() {
    const { "publish-channel": channel, "publish-event": event, "publish-data": data, "publish-result": result } = this.#parts;
    let value;
    try {
      value = data.value.trim() === "" ? undefined : JSON.parse(data.value);
    } catch (error) {
      return say(result, "bad", `the data is not JSON: ${error.message}`);
    }
    await this.#publish(channel.value.trim(), event.value.trim(), value);
  }

  async #publish(channel, event, data) {
    const result = this.#parts["publish-result"];
    const sentAt = performance.now();
    try {
      const { offset } = await this.client.publish(channel, event, data);
      const took = (performance.now() - sentAt).toFixed(1);
      say(result, "good", `${channel} has taken ${event} after ${took} ms${offset === undefined ? "" : `, offset ${offset}`}`);
    } catch (error) {
      say(result, "bad", describe(error) + (error.outcome === "unknown" ? " (it may have happened all the same)" : ""));
    }
  }

  get #position() {
    const { x, y } = this.view.area;
    return { x, y };
  }

  #tellMove() {
    void this.#publish(DEMO, "move", this.#position);
  }

  /** Wandering about and talking, until somebody says stop. */
  #playByItself() {
    const on = () => this.#parts.autopilot.checked && this.client.status === "open";
    setInterval(() => on() && !this.view.held && this.#wander(LOOK_MS / 1_000), LOOK_MS);
    const tell = (event, data, channel = DEMO) => this.client.publish(channel, event, data, { queue: false }).catch(() => {});
    setInterval(() => on() && tell("move", this.#position), 700);
    let line = this.index;
    const talk = () => {
      if (!on()) return;
      const text = LINES[line % LINES.length];
      line += this.session.players.length;
      tell("chat", { text }, this.#audience());
    };
    setTimeout(() => (talk(), setInterval(talk, 6_000)), 300 + this.index * 1_200);
  }

  /** Every third line is for the own team only, where there is such a channel: the other player's feed stays quiet. */
  #audience() {
    const team = `team:${this.info.team}`;
    const aside = ++this.#said % 3 === 0 && this.client.subscriptions.some(({ channel }) => channel === team);
    return aside ? team : this.session.chat;
  }

  #wander(seconds) {
    const { width, height } = this.session.world;
    const { x, y } = this.#position;
    this.#heading += (Math.random() - 0.5) * 0.25;
    // Near the edge there is little to see: back to the middle.
    const [dx, dy] = [width / 2 - x, height / 2 - y];
    if (Math.abs(dx) > width * 0.38 || Math.abs(dy) > height * 0.32) this.#heading = Math.atan2(dy, dx);
    this.view.moveTo(x + Math.cos(this.#heading) * WALK * seconds, y + Math.sin(this.#heading) * WALK * seconds);
  }

  #showSubscriptions() {
    const { player } = this.info;
    const list = this.client.subscriptions;
    this.#parts.subscriptions.replaceChildren(...list.map((info) => this.#chip(player, info)));
    const select = this.#parts["filter-channel"];
    const chosen = select.value || DEMO;
    select.replaceChildren(...list.map(({ channel }) => element("option", { value: channel, textContent: channel, selected: channel === chosen })));
    if (select.value !== chosen) this.#showFilter();
  }

  #chip(player, { channel, by, state }) {
    const filter = this.#filters.get(channel);
    const close = element("button", { type: "button", textContent: "×", title: `Unsubscribe from ${channel}`, dataset: { testid: `${player}-unsubscribe-${channel}` } });
    close.addEventListener("click", async () => {
      await this.client.unsubscribe(channel).catch((error) => say(this.#parts["subscribe-result"], "bad", describe(error)));
      this.#showSubscriptions();
    });
    const note = [by === "client" ? "" : by, filter ? "filtered" : "", state === "pending" ? "pending" : ""].filter(Boolean).join(", ");
    const dataset = { testid: `${player}-subscription-${channel}`, state, by };
    return element("li", { className: "chip", title: filter ?? "", dataset }, channel, element("span", { className: "by", textContent: note }), close);
  }

  #showFilter() {
    const channel = this.#parts["filter-channel"].value || DEMO;
    const presets = channel === this.session.world.channel ? WORLD_FILTERS : FILTERS;
    this.#parts["filter-presets"].replaceChildren(...presets.map((filter) => {
      const preset = element("button", { type: "button", textContent: filter });
      preset.addEventListener("click", () => void this.#applyFilter(channel, filter));
      return preset;
    }));
    this.#parts["filter-input"].value = this.#filters.get(channel) ?? "";
    this.#parts["filter-error"].hidden = true;
    say(this.#parts["filter-result"], "", "");
  }

  /** What changes with time alone. */
  showMeters() {
    const { clock } = this.client;
    const { rtt, offset, latency, count } = this.#parts;
    if (clock.rttMs !== undefined) {
      rtt.textContent = `${clock.rttMs.toFixed(1)} ms`;
      offset.textContent = `${clock.offsetMs >= 0 ? "+" : "−"}${Math.abs(clock.offsetMs).toFixed(1)} ms`;
    }
    if (this.#latencies.length > 0) {
      const median = [...this.#latencies].sort((a, b) => a - b)[this.#latencies.length >> 1];
      latency.textContent = `${Math.max(median, 0).toFixed(1)} ms`;
    }
    count.textContent = String(this.#events);
    this.#showTraffic();
  }

  /**
   * Beside what a plain broadcast of the whole world would send to this player: all that the demo publishes, at the
   * average size of the events that came here.
   */
  #showTraffic() {
    const { seen, updates, bytes, share, broadcast } = this.#parts;
    const { entities, updates_per_second: total } = this.session.world;
    const rates = this.traffic.rates();
    seen.textContent = `${this.table.size} of ${entities}`;
    updates.textContent = `${Math.round(rates.updates)}/s`;
    bytes.textContent = `${kilobytes(rates.bytes)}/s`;
    if (rates.eventBytes === undefined) return;
    const everything = total * rates.eventBytes;
    share.textContent = `${((100 * rates.bytes) / everything).toFixed(1)} %`;
    broadcast.textContent = `A plain broadcast: ${kilobytes(everything)}/s to each player (${entities} entities × ${total / entities} updates/s × ${Math.round(rates.eventBytes)} bytes).`;
  }
}

/** An error of a filter as a person reads it: where, what, and what would be right. */
function explain(filter, error) {
  const lines = [describe(error)];
  if (error.position !== undefined) {
    // The position counts bytes of UTF-8.
    const before = new TextDecoder().decode(new TextEncoder().encode(filter).subarray(0, error.position));
    lines.unshift(filter, `${" ".repeat([...before].length)}^`);
  }
  if (error.hint) lines.push(`hint: ${error.hint}`);
  return lines.join("\n");
}

/** Lines to paste elsewhere, which publish what both players then see. */
function recipesFor({ redis, admin, api_key }) {
  const url = redis ?? "redis://127.0.0.1:6379";
  const payload = (name) => JSON.stringify({ event: "chat", data: { text: `hello from ${name}` } });
  const target = url.startsWith("unix:") ? `-s ${url.replace(/^unix:(\/\/)?/, "")}` : `-u ${url}`;
  return {
    "redis-cli": `redis-cli ${target} PUBLISH ${DEMO} '${payload("redis-cli")}'`,
    python: `import json, redis\n\nr = redis.from_url("${url}")\nr.publish("${DEMO}", json.dumps({"event": "chat", "data": {"text": "hello from Python"}}))`,
    node: `import { createClient } from "redis";\n\nconst redis = await createClient({ url: "${url}" }).connect();\nawait redis.publish("${DEMO}", JSON.stringify({ event: "chat", data: { text: "hello from Node" } }));\nawait redis.close();`,
    rust: `let mut redis = redis::Client::open("${url}")?.get_connection()?;\nredis::cmd("PUBLISH").arg("${DEMO}").arg(r#"${payload("Rust")}"#).exec(&mut redis)?;`,
    http: `curl ${admin ?? "http://127.0.0.1:8001"}/api/publish \\\n  -H "Authorization: Bearer ${api_key ?? "$API_KEY"}" -H "Content-Type: application/json" \\\n  -d '${JSON.stringify({ channel: DEMO, ...JSON.parse(payload("HTTP")) })}'`,
  };
}

function showRecipes(session) {
  const recipes = recipesFor(session);
  const [tabs, text, note, copy] = ["tabs", "text", "note", "copy"].map((part) => byTestId(`recipe-${part}`));
  const away = "This server runs without Redis, so only HTTP works here. Start `drawbridge dev --redis redis://127.0.0.1:6379` for the others.";
  const show = (name) => {
    for (const tab of tabs.children) tab.setAttribute("aria-selected", String(tab.dataset.recipe === name));
    text.textContent = recipes[name];
    note.textContent = name === "http" || session.redis ? "Both players' feeds show it, filters and rights applied." : away;
  };
  for (const name of Object.keys(recipes)) {
    const tab = element("button", { type: "button", textContent: name === "http" ? "HTTP" : name, dataset: { recipe: name, testid: `recipe-tab-${name}` } });
    tab.setAttribute("role", "tab");
    tab.addEventListener("click", () => show(name));
    tabs.append(tab);
  }
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text.textContent).catch(() => getSelection().selectAllChildren(text));
    copy.textContent = "Copied";
    setTimeout(() => (copy.textContent = "Copy"), 1_200);
  });
  show("redis-cli");
}

async function fetchSession() {
  const answer = await fetch("/dev/session", { cache: "no-store" });
  if (!answer.ok) throw new Error(`/dev/session answered ${answer.status}`);
  return answer.json();
}

async function main() {
  const session = await fetchSession();
  byTestId("broker").textContent = session.redis ? "Redis" : "in memory";
  showRecipes(session);

  const players = [];
  const names = session.players.map(({ player }) => player);
  const onHeard = () => {
    const all = players.every((player) => names.every((name) => name === player.info.player || player.heard.has(name)));
    if (all) document.documentElement.dataset.ready = "true";
  };
  session.players.forEach((info, index) => players.push(new Player(index, info, session, onHeard)));
  const named = (name) => players.find((player) => player.info.player === name);
  window.playground = {
    seen: (name) => [...named(name).table].map(({ key, data }) => ({ key, ...data })),
    area: (name) => named(name).view.area,
  };
  for (const player of players) player.start().catch((error) => say(byTestId(`${player.info.player}-subscribe-result`), "bad", describe(error)));

  const frame = (now) => {
    for (const player of players) player.view.draw(now);
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
  setInterval(() => {
    for (const player of players) player.showMeters();
    const { clock } = players[0].client;
    if (clock.rttMs !== undefined) byTestId("server-time").textContent = clockText(clock.now());
  }, 250);
}

main().catch((error) => {
  const banner = byTestId("banner");
  banner.textContent = `The playground could not start: ${error.message}`;
  banner.hidden = false;
});
