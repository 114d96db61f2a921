// Check GLB files with the Khronos glTF validator: node tools/validate_glb.mjs FILE...
// Exit status: 0 all clean, 1 any error or warning, 2 wrong use or no validator.
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";

const files = process.argv.slice(2);
if (files.length === 0) {
  console.error("usage: node tools/validate_glb.mjs FILE...");
  process.exit(2);
}

// NODE_MODULES names another folder of packages than the one of this repository.
const base = process.env.NODE_MODULES ? join(process.env.NODE_MODULES, "package.json") : import.meta.url;
let validator;
try {
  validator = createRequire(base)(process.env.NODE_MODULES
    ? join(process.env.NODE_MODULES, "gltf-validator") : "gltf-validator");
} catch {
  console.error("gltf-validator is not installed: run npm install");
  process.exit(2);
}

let bad = false;
for (const file of files) {
  try {
    const report = await validator.validateBytes(new Uint8Array(await readFile(file)), { uri: file, maxIssues: 50 });
    const { numErrors, numWarnings, numInfos, messages } = report.issues;
    console.log(`${file}: ${numErrors} errors, ${numWarnings} warnings, ${numInfos} infos`);
    for (const m of messages) console.log(`  ${["error", "warning", "info", "hint"][m.severity]} ${m.code} ${m.pointer ?? ""}: ${m.message}`);
    bad ||= numErrors > 0 || numWarnings > 0;
  } catch (error) {
    console.log(`${file}: ${error}`);
    bad = true;
  }
}
process.exit(bad ? 1 : 0);
