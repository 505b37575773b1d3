// The package as others install it: from a tarball that a fresh clone packs, or from the clone, without a build and
// without the development packages. It is compiled against under each module resolution, and run.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

const home = fileURLToPath(new URL("..", import.meta.url));
const tool = (path) => join(home, "node_modules", path);
const TSC = tool("typescript/bin/tsc");
/** The last version that knows `node10`. */
const TSC6 = tool("@typescript/typescript6/bin/tsc6");

/** The file's extension decides whether Node takes the program as an ES module or as CommonJS. */
const RESOLUTIONS = [
  { name: "node16, ES module", tsc: TSC, file: "consumer.mts", options: { module: "node16" }, run: "consumer.mjs" },
  { name: "node16, CommonJS", tsc: TSC, file: "consumer.cts", options: { module: "node16" }, run: "consumer.cjs" },
  { name: "bundler", tsc: TSC, file: "consumer.ts", options: { module: "esnext", moduleResolution: "bundler" } },
  {
    name: "node10",
    tsc: TSC6,
    file: "consumer.ts",
    options: { module: "commonjs", moduleResolution: "node10", ignoreDeprecations: "6.0" },
    run: "consumer.js",
  },
];
const INSTALLS = [
  { name: "the tarball", parameters: () => [tarball] },
  { name: "the clone", parameters: () => ["--install-links", clone] },
  { name: "the clone, linked", parameters: () => [clone] },
];

let directory;
let clone;
let tarball;

before(() => {
  directory = mkdtempSync(join(tmpdir(), "drawbridge-package-"));
  clone = join(directory, "clone");
  for (const file of committedFiles()) {
    mkdirSync(dirname(join(clone, file)), { recursive: true });
    copyFileSync(join(home, file), join(clone, file));
  }
  // As if each game had installed React.
  mkdirSync(join(directory, "node_modules/@types"), { recursive: true });
  for (const name of ["react", "@types/react"]) symlinkSync(tool(name), join(directory, "node_modules", name));
  tarball = join(clone, npm(clone, "pack").trim());
});
after(() => rmSync(directory, { recursive: true, force: true }));

for (const { name, parameters } of INSTALLS) {
  test(`installs from ${name}, with types and code under each module resolution`, async (t) => {
    const game = mkdtempSync(join(directory, "game-"));
    writeFileSync(join(game, "package.json"), JSON.stringify({ name: "game", private: true }));
    npm(game, "install", ...parameters());
    for (const licence of ["LICENSE-MIT", "LICENSE-APACHE"]) assert.ok(existsSync(join(game, "node_modules/@drawbridge/client", licence)), licence);
    for (const resolution of RESOLUTIONS) await t.test(resolution.name, () => compileAndRun(game, resolution));
  });
}

function compileAndRun(game, { tsc, file, options, run }) {
  copyFileSync(join(home, "test/consumer/consumer.ts"), join(game, file));
  const compilerOptions = { target: "es2022", lib: ["es2022", "dom"], types: [], strict: true, ...options };
  writeFileSync(join(game, "tsconfig.json"), JSON.stringify({ compilerOptions, files: [file] }));
  node(game, tsc, "-p", "tsconfig.json");
  if (run) assert.equal(node(game, run), '{"error":"DrawbridgeError"} true function\n');
}

/** What a fresh clone has. */
function committedFiles() {
  return execFileSync("git", ["ls-files", "-z"], { cwd: home, encoding: "utf8" }).split("\0").filter(Boolean);
}

function npm(cwd, ...parameters) {
  return execFileSync("npm", [...parameters, "--offline", "--no-audit", "--no-fund", "--loglevel=error"], { cwd, encoding: "utf8" });
}

/** Answers with what the program prints; the compiler prints its errors there too. */
function node(cwd, ...parameters) {
  try {
    return execFileSync(process.execPath, parameters, { cwd, encoding: "utf8" });
  } catch (error) {
    throw new Error(`${parameters.join(" ")} failed:\n${error.stdout}${error.stderr}`);
  }
}
