// The worker of a page, run by Node.js: in_page.py hands over its script and what it hears.
// Everything that it says goes out, a line of JSON each. With two workers it can have one beside it.

const { readFileSync } = require("node:fs");
const threads = require("node:worker_threads");

const INSIDE = `const { parentPort, workerData } = require("node:worker_threads");
globalThis.postMessage = (...given) => parentPort.postMessage(...given);
(0, eval)(workerData);
parentPort.on("message", (data) => globalThis.onmessage({ data }));`;

const { script, start, weights, kernel, then, workers } = JSON.parse(readFileSync(0, "utf8"));

const beside = [];

/**
 * A worker as a browser has it, in as far as the engine uses it: its script is the same one.
 * Where it fails all has failed: a page would go on with one worker, and another run would be measured.
 */
class PageWorker extends threads.Worker {
  constructor() {
    super(INSIDE, { eval: true, workerData: script });
    beside.push(this);
    this.on("message", (data) => {
      if (data.failed === undefined) this.onmessage({ data });
      else failed(data.failed);
    });
    this.on("error", (error) => failed(error.message));
  }
}

const failed = (text) => globalThis.postMessage({ kind: "failed", text });

if (workers > 1) globalThis.Worker = PageWorker;
const bytes = (text) => Uint8Array.from(Buffer.from(text, "base64"));
globalThis.postMessage = (said) => {
  console.log(JSON.stringify(said));
  if (said.kind === "done" || said.kind === "failed") for (const one of beside) one.terminate();
};
(0, eval)(script);
const packed = Object.fromEntries(Object.entries(weights).map(([role, text]) => [role, bytes(text)]));
globalThis.onmessage({ data: { kind: "start", kernel: bytes(kernel), weights: packed, ...start } });
for (const message of then) globalThis.onmessage({ data: message });
