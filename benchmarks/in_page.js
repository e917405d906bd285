// The worker of a page, run by Node.js: in_page.py hands over its script and what it hears.
// Everything that it says goes out, a line of JSON each.

const { readFileSync } = require("node:fs");

const { script, start, weights, kernel, then } = JSON.parse(readFileSync(0, "utf8"));
const bytes = (text) => Uint8Array.from(Buffer.from(text, "base64"));
globalThis.postMessage = (said) => console.log(JSON.stringify(said));
(0, eval)(script);
const packed = Object.fromEntries(Object.entries(weights).map(([role, text]) => [role, bytes(text)]));
globalThis.onmessage({ data: { kind: "start", kernel: bytes(kernel), weights: packed, ...start } });
for (const message of then) globalThis.onmessage({ data: message });
