// Builds what is committed (nothing is written with `--check`, and a stale or oversized file fails):
// - `dist`: the package; for each entry a readable ES module with a source map, a CommonJS module, and the types of each.
//   It is committed so that a clone can be installed and packed without this build.
// - `drawbridge.min.js` in the server's sources, which its binary embeds for the playground
import { build } from "esbuild";
import { mkdir, readFile, readdir, writeFile } from "node:fs/promises";
import { basename, dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { rollup } from "rollup";
import { dts } from "rollup-plugin-dts";

/** The server sends this file to every playground page: keep it small. */
const MAX_MINIFIED_BYTES = 44 * 1024;
const MINIFIED = "../../crates/server/src/http/playground/drawbridge.min.js";
/** The entry that the others share their types with. */
const MAIN = "drawbridge";
const ENTRIES = { [MAIN]: "src/index.ts", msgpack: "src/msgpack.ts", react: "src/react/index.ts" };

process.chdir(fileURLToPath(new URL(".", import.meta.url)));
const banner = "// Drawbridge's client, built from sdk/typescript by `npm run build`. Do not edit.";
const common = { bundle: true, target: "es2022", charset: "utf8", legalComments: "none", banner: { js: banner }, write: false };
const readable = { ...common, entryPoints: ENTRIES, outdir: "dist", external: ["react"] };

const built = new Map();
await Promise.all([
  bundle({ ...readable, format: "esm", sourcemap: "linked", sourcesContent: false }),
  bundle({ ...readable, format: "cjs", platform: "node", outExtension: { ".js": ".cjs" } }),
  bundle({ ...common, entryPoints: [ENTRIES[MAIN]], outfile: MINIFIED, format: "esm", minify: true }),
  ...Object.keys(ENTRIES).map(declarations),
]);

const bytes = Buffer.byteLength(built.get(MINIFIED));
if (bytes > MAX_MINIFIED_BYTES) fail(`${MINIFIED} has ${bytes} bytes; at most ${MAX_MINIFIED_BYTES} are allowed`);
await (process.argv.includes("--check") ? compare() : write());
console.log(`${MINIFIED}: ${bytes} bytes`);

async function bundle(options) {
  const { outputFiles } = await build(options);
  for (const { path, text } of outputFiles) built.set(relative(".", path), text);
}

/** One file of types for each entry. Each type is declared once: the other entries import it from that of `MAIN`. */
async function declarations(entry) {
  const main = resolve(ENTRIES[MAIN]).replace(/ts$/, "js");
  const bundle = await rollup({
    input: ENTRIES[entry],
    external: (id, importer) => importer !== undefined && resolve(dirname(importer), id) === main,
    plugins: [dts({ tsconfig: "tsconfig.json" })],
  });
  for (const extension of ["js", "cjs"]) {
    const { output } = await bundle.generate({ banner, paths: { [main]: `./${MAIN}.${extension}` } });
    built.set(`dist/${entry}.d.${extension.replace("js", "ts")}`, output[0].code);
  }
  await bundle.close();
}

async function write() {
  await mkdir("dist", { recursive: true });
  for (const [path, text] of built) await writeFile(path, text);
}

async function compare() {
  for (const [path, text] of built) {
    const committed = await readFile(path, "utf8").catch(() => "");
    if (committed !== text) fail(`${path} is stale: run \`npm run build\` and commit it`);
  }
  for (const name of await readdir("dist")) {
    if (!built.has(join("dist", name))) fail(`dist/${basename(name)} is built from nothing: delete it`);
  }
}

function fail(reason) {
  console.error(reason);
  process.exitCode = 1;
}
