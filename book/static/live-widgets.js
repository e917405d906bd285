// Runs the saved widgets of a page without a kernel, a module loader or another host.
//
// A notebook with widgets is written into its page as two kinds of JSON script: one
// `widget-state` with every model's traits, and a `widget-view` where each widget was shown.
// An anywidget carries its own browser code in the trait `_esm`, so it runs here as it does in
// Jupyter. A plain ipywidgets control does not: its code is Jupyter's, and what it does happens in
// Python. In its place the reader sees why, instead of a control that does nothing.
//
// Each view is put into <div class="live-widget" data-state="...">:
//   ready         it runs
//   needs-kernel  it cannot run in a page; a note says so
//   failed        it should run and does not; a note and the console say why
"use strict";

{
  const scripts = (kind) =>
    document.querySelectorAll(`script[type="application/vnd.jupyter.widget-${kind}+json"]`);

  // The browser half of a widget model, as anywidget's front-end interface defines it. With no
  // Python on the other side there is nothing to save to and nobody to send to.
  class PageModel {
    constructor(traits, siblings) {
      this.traits = traits;
      this.listeners = [];
      this.widget_manager = { get_model: async (id) => siblings(id) };
    }

    get(name) {
      return this.traits[name];
    }

    set(name, value) {
      const update = typeof name === "object" ? name : { [name]: value };
      const changed = Object.keys(update).filter((key) => !same(this.traits[key], update[key]));
      Object.assign(this.traits, update);
      for (const key of changed) this.emit(`change:${key}`, this.traits[key]);
      if (changed.length > 0) this.emit("change");
    }

    on(names, callback) {
      for (const event of names.split(/\s+/)) this.listeners.push({ event, callback });
    }

    off(names, callback) {
      const events = names ? names.split(/\s+/) : null;
      this.listeners = this.listeners.filter(
        (one) => (events && !events.includes(one.event)) || (callback && one.callback !== callback),
      );
    }

    emit(event, value) {
      // A copy, because a callback may add or remove listeners.
      for (const one of [...this.listeners]) if (one.event === event) one.callback(this, value);
    }

    save_changes() {}
    send() {}
  }

  const same = (a, b) => a === b || JSON.stringify(a) === JSON.stringify(b);

  // Binary traits are saved apart from the JSON, as base64 with the path that they belong at.
  function traitsOf(record) {
    const traits = structuredClone(record.state);
    for (const { path, data } of record.buffers ?? []) {
      const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
      const holder = path.slice(0, -1).reduce((object, key) => object[key], traits);
      holder[path[path.length - 1]] = new DataView(bytes.buffer);
    }
    return traits;
  }

  // Two widgets of one class share their code: import it once.
  const modules = new Map();
  function definition(source) {
    if (!modules.has(source)) {
      const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
      const loading = import(url).then(({ default: exported }) => {
        if (exported === undefined) throw new Error("its code has no default export");
        return typeof exported === "function" ? exported() : exported;
      });
      modules.set(source, loading);
    }
    return modules.get(source);
  }

  const styles = new Set();
  function addStyle(css) {
    if (!css || styles.has(css)) return;
    styles.add(css);
    const style = document.createElement("style");
    style.textContent = css;
    document.head.append(style);
  }

  function note(place, text) {
    const paragraph = document.createElement("p");
    paragraph.className = "live-widget-note";
    paragraph.setAttribute("role", "note");
    paragraph.textContent = text;
    place.replaceChildren(paragraph);
  }

  async function start() {
    const saved = {};
    for (const script of scripts("state")) Object.assign(saved, JSON.parse(script.textContent).state);

    // Views of one model share it, so that moving one moves the other.
    const running = new Map();
    const signal = new AbortController().signal; // never aborted: a page ends by being left
    function modelOf(id) {
      if (!running.has(id)) running.set(id, initialised(id));
      return running.get(id);
    }
    async function initialised(id) {
      const model = new PageModel(traitsOf(saved[id]), async (other) => (await modelOf(other)).model);
      const widget = await definition(model.get("_esm"));
      await widget.initialize?.({ model, signal });
      return { model, widget };
    }

    async function show(script) {
      const id = JSON.parse(script.textContent).model_id;
      const place = document.createElement("div");
      place.className = "live-widget";
      script.before(place);
      try {
        if (!saved[id]) throw new Error("the notebook was saved without its state");
        if (saved[id].model_module !== "anywidget") {
          place.dataset.state = "needs-kernel";
          note(
            place,
            "This control works only while Python runs behind it: open the notebook in " +
              "Jupyter, on Binder or on Colab to use it.",
          );
          return;
        }
        const { model, widget } = await modelOf(id);
        addStyle(model.get("_css"));
        await widget.render?.({ model, el: place, signal });
        place.dataset.state = "ready";
      } catch (error) {
        console.error("live-widgets:", id, error);
        place.dataset.state = "failed";
        note(place, `This interactive figure could not start: ${error.message}.`);
      }
    }

    // One after another, so that a page starts in the same order every time.
    for (const script of scripts("view")) await show(script);
    document.documentElement.dataset.liveWidgets = "done"; // what a test waits for
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
}
