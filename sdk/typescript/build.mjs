// Builds what is committed (nothing is written with `--check`, and a stale or oversized file fails):
// - `dist/drawbridge.js`, `dist/msgpack.js`: the package, readable, each with a source map beside it
// - `drawbridge.min.js` in the server's sources, which its binary embeds for the playground
import { build } from "esbuild";
import { readFile } from "node:fs/promises";

/** The server sends this file to every playground page: keep it small. */
const MAX_MINIFIED_BYTES = 40 * 1024;
const MINIFIED = "../../crates/server/src/http/playground/drawbridge.min.js";
const COMMITTED = ["dist/drawbridge.js", "dist/msgpack.js", MINIFIED];

const check = process.argv.includes("--check");
const common = { bundle: true, format: "esm", target: "es2022", charset: "utf8", legalComments: "none", write: !check };
const banner = { js: "// Drawbridge's client, built from sdk/typescript by `npm run build`. Do not edit." };
const readable = { ...common, banner, sourcemap: true, sourcesContent: true };

const results = await Promise.all([
  build({ ...readable, entryPoints: ["src/index.ts"], outfile: "dist/drawbridge.js" }),
  build({ ...readable, entryPoints: ["src/msgpack.ts"], outfile: "dist/msgpack.js" }),
  build({ ...common, banner, entryPoints: ["src/index.ts"], outfile: MINIFIED, minify: true }),
]);

const { length: bytes } = check ? results[2].outputFiles[0].contents : await readFile(MINIFIED);
if (bytes > MAX_MINIFIED_BYTES) fail(`${MINIFIED} has ${bytes} bytes; at most ${MAX_MINIFIED_BYTES} are allowed`);
if (check) {
  const built = results.flatMap(({ outputFiles }) => outputFiles).filter(({ path }) => path.endsWith(".js"));
  for (const [at, file] of COMMITTED.entries()) {
    const committed = await readFile(file, "utf8").catch(() => "");
    if (committed !== built[at].text) fail(`${file} is stale: run \`npm run build\` and commit it`);
  }
}
console.log(`${MINIFIED}: ${bytes} bytes`);

function fail(reason) {
  console.error(reason);
  process.exitCode = 1;
}
