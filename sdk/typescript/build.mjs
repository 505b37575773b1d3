// Builds the two bundles. `dist/drawbridge.js` is committed, because the server's binary embeds it; with
// `--check` nothing is written and a stale or oversized bundle fails.
import { build } from "esbuild";
import { readFile } from "node:fs/promises";

/** The server serves this file to every page: keep it small. */
const MAX_BUNDLE_BYTES = 28 * 1024;

const check = process.argv.includes("--check");
const common = { bundle: true, format: "esm", target: "es2022", charset: "utf8", legalComments: "none", write: !check };

const main = await build({
  ...common,
  entryPoints: ["src/index.ts"],
  outfile: "dist/drawbridge.js",
  banner: { js: "// Drawbridge's client, built from sdk/typescript by `npm run build`. Do not edit." },
  minifySyntax: true,
  minifyWhitespace: true,
  minifyIdentifiers: true,
  keepNames: false,
  metafile: true,
});
await build({ ...common, entryPoints: ["src/msgpack.ts"], outfile: "dist/msgpack.js" });

const bytes = Object.values(main.metafile.outputs)[0].bytes;
if (bytes > MAX_BUNDLE_BYTES) {
  console.error(`dist/drawbridge.js has ${bytes} bytes; at most ${MAX_BUNDLE_BYTES} are allowed`);
  process.exitCode = 1;
}
if (check) {
  const committed = await readFile("dist/drawbridge.js", "utf8").catch(() => "");
  if (committed !== main.outputFiles[0].text) {
    console.error("dist/drawbridge.js is stale: run `npm run build` and commit it");
    process.exitCode = 1;
  }
}
console.log(`dist/drawbridge.js: ${bytes} bytes`);
