"""A demo that trains in the page, on a page of the book and as Jupyter shows it."""

from __future__ import annotations

from tests.site.alone import Shown


class Training(Shown):
    """The demo on a page."""

    def status(self) -> str:
        return self.root.locator('[data-name="status"]').get_attribute("data-value")

    def step(self) -> int:
        return int(self.root.locator('[data-name="status"]').get_attribute("data-step"))

    def until(self, *statuses: str) -> None:
        names = ", ".join(f'[data-name="status"][data-value="{status}"]' for status in statuses)
        self.root.locator(names).wait_for(timeout=120_000)

    def until_step(self, step: int) -> None:
        self.root.page.wait_for_function(
            "(step) => Number(document.querySelector('[data-name=status]').dataset.step) >= step",
            arg=step,
            timeout=120_000,
        )

    def curve(self, metric: str) -> str:
        """The path of the thin line of a metric's panel."""
        panel = f'.rlhf-small:has([data-name="{metric}"])'
        return self.root.locator(f"{panel} path.rlhf-raw").get_attribute("d")

    def message(self) -> str:
        return self.root.locator(".rlhf-message").text_content()

    def replies(self) -> list[str]:
        """What is written to the prompts; nothing where no run is on display."""
        shown = self.root.locator(".rlhf-replies").is_visible()
        return self.root.locator(".rlhf-reply-text").all_text_contents() if shown else []


RENDER = """async ([state, weights]) => {
  delete document.documentElement.dataset.content_root;  // a page of Jupyter has no root of a book
  const heard = {};
  const model = {
    get: (name) => state[name], set: (name, value) => { state[name] = value; }, save_changes() {},
    on: (event, f) => (heard[event] ??= []).push(f),
    off: (event, f) => { heard[event] = heard[event].filter((one) => one !== f); },
    send({ kind, name }) {
      if (kind !== "weights" || weights === null) return;
      const bytes = Uint8Array.from(atob(weights[name]), (character) => character.charCodeAt(0));
      const buffers = bytes.length ? [new DataView(bytes.buffer)] : [];
      for (const f of [...heard["msg:custom"]]) f({ kind: "done", of: name }, buffers);
    } };
  const url = URL.createObjectURL(new Blob([state._esm], { type: "text/javascript" }));
  const el = document.createElement("div");
  el.id = "jupyter";
  document.querySelector("article").prepend(el);
  (await import(url)).default.render({ model, el });
}"""


def open_with_python(page, demo, weights: dict[str, str] | None) -> Training:
    """The demo as Jupyter shows it, with a Python that answers with these weights, or not."""
    page.goto(page.base + "book/appendices/notation.html")
    plain = {name: value for name, value in demo.get_state().items() if name != "layout"}
    page.evaluate(RENDER, [plain, weights])
    return Training(page.locator("#jupyter"))
