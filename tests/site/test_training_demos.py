"""The training replay and the dashboard in a real browser, alone and with a Python behind them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from rlhf_lib.seeing.widgets import TrainingDashboard, TrainingReplay
from rlhf_lib.seeing.widgets.training_replay import as_run
from tests.site import alone
from tests.site.alone import assert_fits, assert_fits_and_reads, assert_told, case, show

PROMPTS = [
    "write to ben. ask for a refund: the lamp, friday. reply:",
    "write to ann. say no. reply:",
]


def run(name: str, last: int = 12, shift: float = 0.0) -> dict:
    """A run of made-up numbers, each of which says where it stands."""
    records = [
        dict(
            step=s,
            reward=shift + s / 10,
            gold=3 + shift + s / 20,
            kl=s / 4,
            entropy=0.6,
            length=20 - s / 3,
            beta=0.1 if s < 6 else 0.0,
        )
        for s in range(1, last + 1)
    ]
    measured = [
        dict(
            step=s,
            gold=3.0 + s / 10,
            replies=[(f"{name} at {s}, to ben", s / 2), (f"{name} at {s}, to ann", -s / 2)],
        )
        for s in range(0, last + 1, 4)
    ]
    return dict(name=name, note=f"How {name} was made.", records=records, measured=measured)


RUNS = [run("fixed"), run("adaptive", shift=0.5), run("by hand", last=8)]


def counting(steps: int = 12):
    return SimpleNamespace(step_number=0, beta=0.1, config=SimpleNamespace(max_steps=steps))


class Shown(alone.Shown):
    """A demo on its page, with its twin in Python."""

    def __init__(self, root, python: TrainingReplay) -> None:
        super().__init__(root)
        self.python = python

    def step(self) -> int:
        return int(self.number('[data-setting="step"]'))

    def check(self, run: int, step: int) -> None:
        """Everything on display is what Python has at this run and step."""
        self.python.run, self.python.step = run, step
        expected = self.python.result
        assert self.step() == step
        pressed = self.root.locator('.rlhf-runs [aria-pressed="true"]')
        assert pressed.text_content() == RUNS[run]["name"]
        for name in ("reward", "gold", "kl", "entropy", "length", "beta"):
            output = self.root.locator(f'[data-name="{name}"]')
            if name in expected.record:
                assert float(output.get_attribute("data-value")) == expected.record[name], name
            else:
                assert output.text_content() == "–"
        replies = self.root.locator(".rlhf-reply-text").all_text_contents()
        assert replies == [text for _, text, _ in expected.completions]
        golds = self.numbers(".rlhf-reply-gold")
        assert golds == [gold for *_, gold in expected.completions]
        heading = self.root.locator(".rlhf-replies-head")
        assert int(heading.get_attribute("data-step")) == expected.completions_of


def replay(page, **options) -> Shown:
    demo = TrainingReplay(PROMPTS, RUNS)
    return Shown(show(page, demo, **options), demo)


@pytest.mark.parametrize("source", ["http", "file"])
def test_it_shows_what_python_has_and_asks_nobody(page, source):
    replay(page, source=source).check(0, 0)
    assert (page.errors, page.outside) == ([], [])


def test_scrubbed_by_keyboard_and_by_buttons(page):
    demo = replay(page)
    demo.control("step").focus()
    for step in (1, 2, 3, 4, 5):
        page.keyboard.press("ArrowRight")
        demo.check(0, step)
    page.keyboard.press("ArrowLeft")
    demo.check(0, 4)
    page.keyboard.press("End")
    demo.check(0, 12)
    demo.control("next").click()
    demo.check(0, 12)
    demo.control("step").focus()
    page.keyboard.press("Home")
    demo.control("next").click()
    demo.control("next").click()
    demo.control("back").click()
    demo.check(0, 1)


PANEL = """name => {
    const number = document.querySelector(`[data-name="${name}"]`);
    const figure = number.parentElement.parentElement.querySelector("svg");
    const ticks = [...figure.querySelectorAll("text[text-anchor=end]")].map(
        t => [Number(t.textContent.replace("\u2212", "-")), Number(t.getAttribute("y")) - 4]);
    const [[a, top], [b, bottom]] = [ticks[0], ticks.at(-1)];
    const raw = figure.querySelector(".rlhf-raw").getAttribute("d").match(/[\\d.]+/g).map(Number);
    return {dot: Number(figure.querySelector(".rlhf-dot").getAttribute("cy")),
            value: Number(number.dataset.value), raw: raw.filter((_, i) => i % 2),
            slope: (bottom - top) / (b - a), a, top};
}"""


def test_the_dot_stands_at_the_number_and_no_step_is_cut_off(page):
    demo = replay(page)
    demo.control("step").focus()
    for key in ("ArrowRight", "End"):
        page.keyboard.press(key)
        for name in ("reward", "gold", "kl", "length"):
            panel = page.evaluate(PANEL, name)
            expected = panel["top"] + panel["slope"] * (panel["value"] - panel["a"])
            assert panel["dot"] == pytest.approx(expected, abs=0.6), name
            # a straight line of steps: at an edge they would be equal
            assert len(set(panel["raw"])) == 12, name


def test_another_run_keeps_the_step_as_far_as_it_goes(page):
    demo = replay(page)
    demo.control("step").focus()
    page.keyboard.press("End")
    demo.control("run-1").focus()
    page.keyboard.press("Enter")
    demo.check(1, 12)
    demo.control("run-2").click()
    demo.check(2, 8)
    assert "How by hand was made." in demo.root.locator('[data-name="run-note"]').text_content()
    assert page.errors == []


def test_it_plays_to_the_end_and_can_be_paused(page):
    page.emulate_media(reduced_motion="no-preference")
    demo = replay(page)
    demo.control("play").click()
    assert demo.control("play").text_content() == "pause"
    page.wait_for_function("document.querySelector('[data-setting=step]').dataset.value >= 2")
    demo.control("play").click()
    held = demo.step()
    page.wait_for_timeout(700)
    assert demo.step() == held < 12
    demo.control("play").click()
    page.wait_for_function("document.querySelector('[data-setting=step]').dataset.value == 12")
    page.wait_for_function("document.querySelector('[data-control=play]').textContent === 'play'")
    demo.check(0, 12)


def test_who_asked_for_less_motion_jumps_from_replies_to_replies(page):
    page.emulate_media(reduced_motion="reduce")
    demo = replay(page)
    for step in (4, 8, 12, 0):
        assert demo.control("play").text_content() == "next replies"
        demo.control("play").click()
        demo.check(0, step)
    page.wait_for_timeout(600)
    assert demo.step() == 0  # nothing moves by itself


def without(run: dict, **change) -> dict:
    return {**as_run(run["name"], run["records"], run["measured"], PROMPTS), **change}


BAD = [
    ({"runs": []}, "runs is empty"),
    ({"run": 7}, "run is 7; expected 0 to 2"),
    ({"step": -1}, "step is -1; expected 0 or more"),
    ({"prompts": "p"}, "prompts are not a list"),
    ({"runs": [without(RUNS[0], steps=[2, 1])]}, "the steps of run fixed are not whole"),
    ({"runs": [without(RUNS[0], curves={"kl": [1]})]}, "kl of run fixed has 1 values; expected 12"),
    ({"runs": [without(RUNS[0], at=[0])]}, "the held-out measurements of run fixed are missing"),
    ({"prompts": ["one"]}, "replies of run fixed do not fit the prompts; expected 1 each time"),
]


def test_a_bad_state_gets_a_message_and_no_blank_figure(page):
    replay(page)
    assert_told(page, BAD)


def test_it_fits_and_can_be_read(page):
    demo = replay(page, width=390)
    demo.control("run-1").click()
    assert_fits_and_reads(
        page,
        demo.root,
        [
            ".rlhf-panel-head span",
            ".rlhf-reply-text",
            ".rlhf-reply-gold",
            ".rlhf-button",
            ".rlhf-legend",
        ],
    )


def test_controls_have_names(page):
    for control in replay(page).root.locator("input, button").all():
        assert control.get_attribute("aria-label")


# --- the dashboard --------------------------------------------------------------------------------


def dashboard(page, recorded=RUNS, **options):
    return show(page, TrainingDashboard(counting(), PROMPTS, recorded=recorded), **options)


@pytest.mark.parametrize("source", ["http", "file"])
def test_without_python_the_dashboard_is_a_replay(page, source):
    root = dashboard(page, source=source)
    assert root.locator(".rlhf-steer").is_hidden()  # no control that does nothing
    assert "no Python behind this page" in root.locator('[data-name="where"]').text_content()
    demo = Shown(root, TrainingReplay(PROMPTS, RUNS))
    demo.check(0, 0)
    demo.control("run-2").click()
    demo.control("step").focus()
    page.keyboard.press("End")
    demo.check(2, 8)
    assert (page.errors, page.outside) == ([], [])


def test_without_python_and_without_a_recording_it_says_so(page):
    root = dashboard(page, recorded=[])
    assert "no recorded run to show" in root.locator('[data-name="where"]').text_content()
    assert root.locator(".rlhf-training").is_hidden() and page.errors == []


def test_the_dashboard_fits_the_page(page):
    root = dashboard(page, width=390)
    for width in (390, 1280):
        assert_fits(page, root, width)
    with_python(page)
    page.wait_for_function(STEERING)
    for width in (390, 1280):
        assert_fits(page, page.locator("#with-python"), width)


# The demo with a Python of the test's behind it: what the page sends, and what it is answered.
WITH_PYTHON = """(deaf) => {
  const { state } = Object.values(JSON.parse(document.querySelector(
    'script[type="application/vnd.jupyter.widget-state+json"]').textContent).state)
    .find((s) => s.state._esm);
  const heard = {};
  window.sent = [];
  const emit = (event, ...rest) => (heard[event] ?? []).forEach((f) => f(...rest));
  window.python = { get: (k) => state[k], save_changes() {},
    set: (k, v) => { state[k] = v; emit(`change:${k}`); },
    on: (e, f) => (heard[e] ??= []).push(f), off() {},
    answer: (content) => emit("msg:custom", content),
    send: (content) => { window.sent.push(content);
      if (deaf && content.kind !== "hello") return;
      const bad = content.kind === "beta" && !(Number(content.value) >= 0);
      setTimeout(() => {
        if (content.kind === "beta" && !bad) window.python.set("beta", Number(content.value));
        emit("msg:custom", bad
          ? { kind: "failed", of: "beta",
              text: `beta is '${content.value}'; expected 0 or more, and finite` }
          : { kind: "done", of: content.kind });
      }, 10); } };
  const url = URL.createObjectURL(new Blob([state._esm], { type: "text/javascript" }));
  const el = document.createElement("div");
  el.id = "with-python";
  document.querySelector("article").prepend(el);
  return import(url).then((m) => { m.default.render({ model: window.python, el }); });
}"""
STEERING = "!document.querySelector('#with-python .rlhf-steer').hidden"


def with_python(page, deaf: bool = False):
    page.evaluate(WITH_PYTHON, deaf)
    return page.locator("#with-python")


def python_sets(page, **traits) -> None:
    page.evaluate(
        "(traits) => { for (const [k, v] of Object.entries(traits)) window.python.set(k, v); }",
        traits,
    )


def status(root) -> str:
    return root.locator('[data-name="status"]').text_content()


def sent(page) -> list:
    return page.evaluate("window.sent")


def live(last: int) -> dict:
    one = run("this run", last)
    return as_run("this run", one["records"], one["measured"], PROMPTS)


def test_with_python_the_controls_ask_and_the_run_is_followed(page):
    dashboard(page)
    root = with_python(page)
    page.wait_for_function(STEERING)
    assert root.locator('[data-name="where"]').is_hidden()
    assert root.locator('[data-control="stop"]').is_disabled()
    root.locator('[data-control="go"]').focus()
    page.keyboard.press("Enter")
    assert sent(page) == [{"kind": "hello"}, {"kind": "start"}]
    for last in (3, 5):  # the view stays at the newest step
        python_sets(page, status="running", live=live(last))
        assert status(root) == f"running, step {last} of 12"
        assert int(root.locator('[data-setting="step"]').get_attribute("data-value")) == last
    assert root.locator(".rlhf-reply-text").first.text_content() == "this run at 4, to ben"
    root.locator('[data-control="step"]').focus()
    page.keyboard.press("Home")  # the reader looks back, and is left there
    python_sets(page, live=live(6))
    assert int(root.locator('[data-setting="step"]').get_attribute("data-value")) == 0
    root.locator('[data-control="go"]').click()
    assert sent(page)[-1] == {"kind": "pause"} and "pausing" in status(root)
    python_sets(page, status="paused")
    assert "paused, step 6 of 12" == status(root)
    root.locator('[data-control="stop"]').click()
    assert sent(page)[-1] == {"kind": "stop"}
    assert page.errors == []


def test_beta_is_turned_by_slider_and_by_field(page):
    dashboard(page)
    root = with_python(page)
    page.wait_for_function(STEERING)
    root.locator('[data-control="beta"]').focus()
    page.keyboard.press("Home")
    page.wait_for_function("window.python.get('beta') === 0")
    assert root.locator('[data-control="beta-field"]').input_value() == "0"
    page.keyboard.press("End")
    page.wait_for_function("window.python.get('beta') === 1")
    field = root.locator('[data-control="beta-field"]')
    field.fill("0,03")  # as many people write it
    field.press("Enter")
    page.wait_for_function("window.python.get('beta') === 0.03")
    assert root.locator(".rlhf-message").is_hidden()


def test_a_bad_beta_is_refused_in_words_and_the_old_one_stays(page):
    dashboard(page)
    root = with_python(page)
    page.wait_for_function(STEERING)
    field, message = root.locator('[data-control="beta-field"]'), root.locator(".rlhf-message")
    for typed, old, good in (("-1", 0.1, "0.2"), ("much", 0.2, "0.3")):
        with case(typed):
            field.fill(typed)
            field.press("Enter")
            message.wait_for()
            said = message.text_content()
            assert f"Refused: beta is '{typed}'; expected 0 or more" in said and "as it was" in said
            assert field.get_attribute("aria-invalid") == "true"
            assert page.evaluate("window.python.get('beta')") == old
            field.fill(good)
            field.press("Enter")
            page.wait_for_function(f"window.python.get('beta') === {good}")
            assert message.is_hidden()


def test_what_went_wrong_in_the_run_is_shown(page):
    dashboard(page)
    root = with_python(page)
    page.wait_for_function(STEERING)
    python_sets(
        page,
        live=live(4),
        status="failed",
        message="Step 5 was refused, and the run has stopped. FloatingPointError: nan",
    )
    assert "Step 5 was refused" in root.locator(".rlhf-message").text_content()
    assert status(root) == "failed, step 4 of 12"
    assert root.locator('[data-control="go"]').text_content() == "go on"


def test_a_page_opened_again_finds_the_run_as_it_is(page):
    """Displayed again after the tab was closed: the state is Python's, and the run has gone on."""
    dashboard(page)
    page.evaluate(
        """(live) => { for (const script of document.querySelectorAll(
        'script[type="application/vnd.jupyter.widget-state+json"]')) {
      const all = JSON.parse(script.textContent);
      for (const { state } of Object.values(all.state)) {
        if (state._esm) Object.assign(state, { live, status: "running", beta: 0.5 });
      }
      script.textContent = JSON.stringify(all);
    } }""",
        live(9),
    )
    root = with_python(page)
    page.wait_for_function(STEERING)
    assert status(root) == "running, step 9 of 12"
    assert int(root.locator('[data-setting="step"]').get_attribute("data-value")) == 9
    assert root.locator('[data-control="beta-field"]').input_value() == "0.5"


def test_a_python_that_is_busy_is_noticed(page):
    dashboard(page)
    root = with_python(page, deaf=True)
    page.wait_for_function(STEERING)
    root.locator('[data-control="go"]').click()
    root.locator(".rlhf-message").wait_for()
    assert "Python does not answer" in root.locator(".rlhf-message").text_content()


BAD_DASHBOARD = [
    ({"beta": -1}, "beta is -1; expected 0 or more"),
    ({"total": 0}, "total is 0; expected at least 1 step"),
    ({"recorded": [without(RUNS[0], curves={"kl": [1]})]}, "kl of run fixed has 1 values"),
]


def test_a_bad_state_of_the_dashboard_gets_a_message(page):
    dashboard(page)
    assert_told(page, BAD_DASHBOARD)
