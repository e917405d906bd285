"""A demo's own browser code, run on a state of the test's choosing."""

from __future__ import annotations

RENDER = """async ([trait, drawn, first, then]) => {
  const states = Object.values(JSON.parse(document.querySelector(
    'script[type="application/vnd.jupyter.widget-state+json"]').textContent).state);
  const state = {...states.find((s) => s.state._esm && s.state[trait]).state, ...first};
  const heard = {};
  const model = { get: (k) => state[k], set: (k, v) => { state[k] = v; }, save_changes() {},
    on: (e, f) => (heard[e] ??= []).push(f), off() {}, send() {} };
  const url = URL.createObjectURL(new Blob([state._esm], { type: "text/javascript" }));
  const el = document.createElement("div");
  document.querySelector("article").prepend(el);
  const end = (await import(url)).default.render({ model, el });
  for (const [key, value] of Object.entries(then)) {
    state[key] = value;
    for (const f of heard[`change:${key}`] ?? []) f();
  }
  const figure = el.querySelector(".rlhf-figure"), message = el.querySelector(".rlhf-message");
  const found = { text: message.hidden ? "" : message.textContent, figure: !figure.hidden,
                  drawn: figure.querySelectorAll(drawn).length, inside: figure.innerHTML };
  end();
  el.remove();
  URL.revokeObjectURL(url);
  return found;
}"""


def render(page, trait: str, drawn: str, first: dict, then: dict) -> dict:
    """Draw a demo anew from its stored state with changes, also such as Python would refuse.

    The demo is the one whose state has `trait`; `first` is set before it draws, `then` after.
    `drawn` selects the parts of the figure that are counted. What was drawn is taken away again:
    the next drawing finds the page as this one did.
    """
    return page.evaluate(RENDER, [trait, drawn, first, then])
