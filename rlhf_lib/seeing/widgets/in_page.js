// The engine (../engine) in a worker beside the page, and the models that it is given. Shared by the demos
// that run a model. WORKER and KERNEL stand before this file.

const bytesOf = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

// Why no model can run in this browser, or null.
function cannotRun() {
  if (typeof WebAssembly !== "object" || !WebAssembly.validate(bytesOf(KERNEL))) {
    return "This browser cannot run the model: it has no WebAssembly with SIMD.";
  }
  if (typeof DecompressionStream !== "function") {
    return "This browser cannot run the model: it cannot unpack its weights.";
  }
  return typeof Worker === "function" ? null : "This browser cannot run the model: it has no workers.";
}

// A model as the book's page has it, base64 in a script, because a page that is a file can load nothing else.
function weightsOfPage(name, root) {
  const found = () => globalThis.rlhfWeights?.[name];
  if (found()) return Promise.resolve(found());
  return new Promise((resolve, reject) => {
    const fail = () => reject(new Error(`the weights are missing: _static/weights/${name}.js did not load`));
    const script = html("script", { src: `${root}_static/weights/${name}.js` });
    script.addEventListener("load", () => (found() ? resolve(found()) : fail()));
    script.addEventListener("error", fail);
    document.head.append(script);
  });
}

// A model from Python, where there is one.
function weightsOfPython(model, name) {
  return new Promise((resolve, reject) => {
    const kernel = python(model, {
      wanted: (content) => content.of === name,
      answered(_, buffers) {
        kernel.stop();
        const view = buffers?.[0];
        if (view) resolve(new Uint8Array(view.buffer, view.byteOffset, view.byteLength).slice());
        else reject(new Error("Python sent no weights"));
      },
      silent() {
        kernel.stop();
        reject(new Error("Python has the weights and does not answer; begin again when its cell has ended"));
      },
    });
    kernel.ask({ kind: "weights", name });
  });
}

// The models of a run, by their roles, each as it is packed.
async function weightsOf(model, names) {
  const root = document.documentElement.dataset.content_root; // Sphinx's pages have it
  const found = {};
  for (const [role, name] of Object.entries(names)) {
    found[role] = await (root === undefined ? weightsOfPython(model, name) : weightsOfPage(name, root));
  }
  return found;
}

// The worker with the engine. `said` gets what it says; `tell` is what it hears.
function engineOf(said) {
  const url = URL.createObjectURL(new Blob([WORKER], { type: "text/javascript" }));
  const worker = new Worker(url);
  URL.revokeObjectURL(url);
  worker.addEventListener("message", ({ data }) => said(data));
  worker.addEventListener("error", ({ message }) =>
    said({ kind: "failed", text: message || "the worker did not start" }),
  );
  return { tell: (message) => worker.postMessage(message), end: () => worker.terminate() };
}
