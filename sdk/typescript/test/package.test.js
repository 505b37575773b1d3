// What a consumer of the package meets: readable code, errors with their names, and the small file of the playground.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const url = (path) => new URL(path, import.meta.url);
const PLAYGROUND = url("../../../crates/server/src/http/playground/drawbridge.min.js");
/** Copies, because npm packs nothing from outside the package's directory, and no links. */
const LICENCES = ["LICENSE-MIT", "LICENSE-APACHE"];

test("the licences of the package are those of the project", () => {
  for (const name of LICENCES) assert.equal(readFileSync(url(`../${name}`), "utf8"), readFileSync(url(`../../../${name}`), "utf8"));
});

test("each entry of the package is readable, has its types, and a source map to sources that are in the package", () => {
  const { exports, files } = JSON.parse(readFileSync(url("../package.json"), "utf8"));
  assert.deepEqual(files, ["dist", "src", ...LICENCES]);
  for (const entry of Object.values(exports).filter((value) => typeof value === "object")) {
    for (const { types, default: file } of Object.values(entry)) {
      assert.ok(existsSync(url(`../${types}`)), types);
      const longest = Math.max(...readFileSync(url(`../${file}`), "utf8").split("\n").map((line) => line.length));
      assert.ok(longest < 300, `${file} has a line of ${longest} characters`);
    }
    const file = entry.import.default;
    const lastLine = readFileSync(url(`../${file}`), "utf8").trimEnd().split("\n").at(-1);
    assert.equal(lastLine, `//# sourceMappingURL=${file.split("/").at(-1)}.map`);
    const { sources } = JSON.parse(readFileSync(url(`../${file}.map`), "utf8"));
    for (const source of sources) {
      assert.match(source, /^\.\.\/src\/[a-z-/]+\.tsx?$/);
      assert.ok(existsSync(url(`../dist/${source}`)), source);
    }
  }
});

for (const [name, file] of [["the package", url("../dist/drawbridge.js")], ["the playground's bundle", PLAYGROUND]]) {
  test(`an error of ${name} has its class's name`, async () => {
    const { DrawbridgeError } = await import(file);
    const error = new DrawbridgeError("FORBIDDEN", "no right to subscribe", { channel: "room:1" });
    assert.deepEqual([error.name, error.constructor.name], ["DrawbridgeError", "DrawbridgeError"]);
    assert.match(error.stack, /^DrawbridgeError: FORBIDDEN: no right to subscribe \(room:1\)\n/);
    assert.deepEqual({ ...error }, { code: "FORBIDDEN", retryable: false, channel: "room:1" });
  });
}

test("an error that nobody catches prints its name, code and message, and no wall of code", () => {
  const script = `
    import { Drawbridge } from ${JSON.stringify(url("../dist/drawbridge.js").href)};
    class NoSocket { constructor() { throw new Error("no network here"); } }
    await new Drawbridge("ws://127.0.0.1/ws", { WebSocket: NoSocket, logger: false }).connect();`;
  const { status, stderr } = spawnSync(process.execPath, ["--input-type=module", "--eval", script], {
    encoding: "utf8",
    cwd: fileURLToPath(url(".")),
  });
  assert.notEqual(status, 0);
  assert.match(stderr, /DrawbridgeError: CLOSED: the WebSocket could not be created/);
  assert.match(stderr, /code: 'CLOSED'/);
  assert.ok(Math.max(...stderr.split("\n").map((line) => line.length)) < 300, stderr.slice(0, 2_000));
});
