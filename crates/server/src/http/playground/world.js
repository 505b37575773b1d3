// The world as one player sees it: a canvas with the entities in view and the area that may be dragged, and what the
// view costs on the wire. What is in view is the server's business: this file draws what the client's table tells.

const ENTER_MS = 250;
const LEAVE_MS = 600;
/** A player that said nothing for so long is not drawn. */
const PLAYER_MS = 5_000;
/** Between two states an entity glides: about the time from one to the next. */
const GLIDE_MS = 110;
const MIN_RADIUS = 6;
/** How near to the knob the pointer takes it, in pixels. */
const KNOB_REACH = 14;
const TEAMS = { red: "#ff6b6b", blue: "#5b9dff" };
const LANTERN = "#ffd479";

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const round = (value) => Math.round(value * 10) / 10;

/** The canvas of one player. Its area is a circle around the player; who sees it changed tells the server. */
export class WorldView {
  #canvas;
  #size;
  #team;
  #sprites = new Map();
  #players = new Map();
  #centre;
  #radius;
  #drag;
  #drawnAt = 0;
  /** What stands in the way of a view, for the player to read; empty: nothing does. */
  note = "";

  /** `size`: {width, height, maxRadius} of the world. `onMoved`: somebody has moved the player by hand. */
  constructor(canvas, size, team, centre, radius, onMoved) {
    this.#canvas = canvas;
    this.#size = size;
    this.#team = team;
    this.#centre = centre;
    this.#radius = radius;
    this.#listen(onMoved);
  }

  /** As the server is asked for it. */
  get area() {
    return { x: round(this.#centre.x), y: round(this.#centre.y), radius: round(this.#radius) };
  }

  /** Whether somebody holds it. */
  get held() {
    return this.#drag !== undefined;
  }

  moveTo(x, y) {
    this.#centre = { x: clamp(x, 0, this.#size.width), y: clamp(y, 0, this.#size.height) };
  }

  /** An entity came into view, or is in another state. */
  show({ key, data }) {
    const { x, y } = data ?? {};
    if (!Number.isFinite(x) || !Number.isFinite(y)) return;
    const known = this.#sprites.get(key);
    const now = performance.now();
    const fresh = { x, y, shown: 0 };
    this.#sprites.set(key, { ...(known ?? fresh), toX: x, toY: y, team: data.team, lit: data.public === true, heardAt: now, leaving: false });
  }

  /** It is not in view any more: it fades where it was. */
  hide({ key }) {
    const sprite = this.#sprites.get(key);
    if (sprite) sprite.leaving = true;
  }

  /** Another player has told where it is. */
  showPlayer(name, { x, y }, team) {
    if (Number.isFinite(x) && Number.isFinite(y)) this.#players.set(name, { x, y, team, heardAt: performance.now() });
  }

  draw(now) {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    const ratio = window.devicePixelRatio || 1;
    if (this.#canvas.width !== Math.round(width * ratio)) this.#canvas.width = Math.round(width * ratio);
    if (this.#canvas.height !== Math.round(height * ratio)) this.#canvas.height = Math.round(height * ratio);
    const pen = this.#canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const sinceMs = Math.min(now - this.#drawnAt, 100);
    this.#drawnAt = now;
    this.#drawGround(pen, width, height);
    for (const [key, sprite] of this.#sprites) {
      sprite.shown += sprite.leaving ? -sinceMs / LEAVE_MS : sinceMs / ENTER_MS;
      if (sprite.shown <= 0 && sprite.leaving) this.#sprites.delete(key);
      else this.#drawSprite(pen, sprite, sinceMs);
    }
    this.#drawPlayers(pen, now);
    if (this.note) this.#drawNote(pen, width, height);
  }

  get #scale() {
    return this.#canvas.clientWidth / this.#size.width;
  }

  /** Dark where nothing is seen, a lit ground within the area. */
  #drawGround(pen, width, height) {
    const scale = this.#scale;
    const [x, y, radius] = [this.#centre.x * scale, this.#centre.y * scale, this.#radius * scale];
    const colour = TEAMS[this.#team] ?? "#5eb1ff";
    pen.beginPath();
    pen.arc(x, y, radius, 0, 2 * Math.PI);
    pen.fillStyle = "#18212d";
    pen.fill();
    pen.save();
    pen.clip();
    pen.strokeStyle = "#222d3b";
    pen.lineWidth = 1;
    pen.beginPath();
    for (let at = 10; at < this.#size.width; at += 10) {
      const line = Math.round(at * scale) + 0.5;
      pen.moveTo(line, 0);
      pen.lineTo(line, height);
      pen.moveTo(0, line);
      pen.lineTo(width, line);
    }
    pen.stroke();
    pen.restore();
    pen.strokeStyle = colour;
    pen.globalAlpha = this.held ? 1 : 0.65;
    pen.lineWidth = 1.5;
    pen.beginPath();
    pen.arc(x, y, radius, 0, 2 * Math.PI);
    pen.stroke();
    const knob = this.#knob();
    pen.globalAlpha = 1;
    pen.fillStyle = colour;
    pen.beginPath();
    pen.arc(knob.x, knob.y, 5, 0, 2 * Math.PI);
    pen.fill();
    // The player itself.
    pen.lineWidth = 2;
    pen.beginPath();
    pen.arc(x, y, 6, 0, 2 * Math.PI);
    pen.stroke();
  }

  #drawSprite(pen, sprite, sinceMs) {
    sprite.shown = clamp(sprite.shown, 0, 1);
    const part = 1 - Math.exp(-sinceMs / GLIDE_MS);
    sprite.x += (sprite.toX - sprite.x) * part;
    sprite.y += (sprite.toY - sprite.y) * part;
    const [x, y] = [sprite.x * this.#scale, sprite.y * this.#scale];
    if (sprite.lit) {
      pen.globalAlpha = 0.25 * sprite.shown;
      pen.fillStyle = LANTERN;
      pen.beginPath();
      pen.arc(x, y, 9, 0, 2 * Math.PI);
      pen.fill();
    }
    pen.globalAlpha = sprite.shown;
    pen.fillStyle = TEAMS[sprite.team] ?? "#8b98a8";
    pen.beginPath();
    // What comes grows, what goes only fades.
    pen.arc(x, y, sprite.leaving ? 3.2 : 1.2 + 2 * sprite.shown, 0, 2 * Math.PI);
    pen.fill();
    pen.globalAlpha = 1;
  }

  #drawPlayers(pen, now) {
    pen.font = "600 12px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.lineWidth = 2;
    for (const [name, player] of this.#players) {
      const age = now - player.heardAt;
      if (age > PLAYER_MS) this.#players.delete(name);
      const [x, y] = [player.x * this.#scale, player.y * this.#scale];
      pen.globalAlpha = clamp(0.7 * (1 - age / PLAYER_MS), 0, 1);
      pen.strokeStyle = pen.fillStyle = TEAMS[player.team] ?? "#8b98a8";
      pen.beginPath();
      pen.arc(x, y, 6, 0, 2 * Math.PI);
      pen.stroke();
      pen.fillText(name, x, y - 10);
    }
    pen.globalAlpha = 1;
  }

  #drawNote(pen, width, height) {
    pen.fillStyle = "#0b0e13b0";
    pen.fillRect(0, height - 28, width, 28);
    pen.fillStyle = "#e5b454";
    pen.font = "12px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.fillText(this.note, width / 2, height - 10, width - 20);
  }

  /** Where the circle can be taken to make it larger or smaller: to its right, or wherever that is on the canvas. */
  #knob() {
    const scale = this.#scale;
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    const knobs = [0, 0.5, 1, 1.5].map((turn) => ({
      x: (this.#centre.x + this.#radius * Math.cos(turn * Math.PI)) * scale,
      y: (this.#centre.y + this.#radius * Math.sin(turn * Math.PI)) * scale,
    }));
    return knobs.find(({ x, y }) => x >= 6 && y >= 6 && x <= width - 6 && y <= height - 6) ?? knobs[0];
  }

  #listen(onMoved) {
    const canvas = this.#canvas;
    canvas.addEventListener("pointerdown", (event) => {
      const { x, y } = this.#at(event);
      const knob = this.#knob();
      const byKnob = Math.hypot(x * this.#scale - knob.x, y * this.#scale - knob.y) <= KNOB_REACH;
      const inside = Math.hypot(x - this.#centre.x, y - this.#centre.y) <= this.#radius;
      // Taken inside, the circle keeps its place under the pointer; elsewhere it jumps there.
      this.#drag = byKnob ? { knob: true } : inside ? { dx: this.#centre.x - x, dy: this.#centre.y - y } : { dx: 0, dy: 0 };
      canvas.setPointerCapture(event.pointerId);
      this.#dragTo(x, y);
    });
    canvas.addEventListener("pointermove", (event) => {
      const { x, y } = this.#at(event);
      if (this.#drag) this.#dragTo(x, y);
    });
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, () => {
        if (!this.#drag) return;
        const moved = !this.#drag.knob;
        this.#drag = undefined;
        if (moved) onMoved(this.area);
      });
    }
    canvas.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        this.#setRadius(this.#radius * Math.exp(-clamp(event.deltaY, -200, 200) / 800));
      },
      { passive: false },
    );
    canvas.addEventListener("keydown", (event) => {
      const [dx, dy] = { ArrowLeft: [-4, 0], ArrowRight: [4, 0], ArrowUp: [0, -4], ArrowDown: [0, 4] }[event.key] ?? [0, 0];
      const grow = { "+": 1.1, "-": 1 / 1.1 }[event.key];
      if (grow) this.#setRadius(this.#radius * grow);
      if (!dx && !dy) return;
      event.preventDefault();
      this.moveTo(this.#centre.x + dx, this.#centre.y + dy);
      onMoved(this.area);
    });
  }

  #dragTo(x, y) {
    if (this.#drag.knob) this.#setRadius(Math.hypot(x - this.#centre.x, y - this.#centre.y));
    else this.moveTo(x + this.#drag.dx, y + this.#drag.dy);
  }

  #setRadius(radius) {
    this.#radius = clamp(radius, MIN_RADIUS, this.#size.maxRadius);
  }

  /** Where a pointer is in the world. */
  #at(event) {
    const box = this.#canvas.getBoundingClientRect();
    return { x: ((event.clientX - box.left) / box.width) * this.#size.width, y: ((event.clientY - box.top) / box.height) * this.#size.height };
  }
}

/** How much of the past a rate is about. */
const RATE_MS = 2_000;

/** What one channel costs this connection, in the bytes of its messages as text, before any compression. */
export class Traffic {
  #channel;
  #bytes = 0;
  #updates = 0;
  #events = { bytes: 0, count: 0 };
  /** What it was at earlier times. */
  #past = [{ at: performance.now(), bytes: 0, updates: 0 }];

  constructor(channel) {
    this.#channel = channel;
  }

  /** A frame as it came, and what it says. */
  saw(frame, decoded) {
    const all = Array.isArray(decoded) ? decoded : [decoded];
    const ours = all.filter(({ channel }) => channel === this.#channel);
    if (ours.length === 0) return;
    const sizes = ours.map((message) => JSON.stringify(message).length);
    this.#bytes += ours.length === all.length ? frame.length : sizes.reduce((sum, size) => sum + size, 0);
    ours.forEach((message, at) => {
      this.#updates += message.entities?.length ?? message.keys?.length ?? 1;
      if (message.type !== "EVENT") return;
      this.#events.bytes += sizes[at];
      this.#events.count++;
    });
  }

  /** Bytes and updates a second, and how long an update is on average (undefined before the first). */
  rates() {
    const now = { at: performance.now(), bytes: this.#bytes, updates: this.#updates };
    this.#past.push(now);
    while (this.#past.length > 2 && this.#past[1].at <= now.at - RATE_MS) this.#past.shift();
    const [then] = this.#past;
    const seconds = Math.max(now.at - then.at, 1) / 1_000;
    const { bytes, count } = this.#events;
    return {
      bytes: (now.bytes - then.bytes) / seconds,
      updates: (now.updates - then.updates) / seconds,
      eventBytes: count > 0 ? bytes / count : undefined,
    };
  }
}
