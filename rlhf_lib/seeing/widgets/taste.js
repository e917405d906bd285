// The reader's taste: pairs to compare, and how well a reward model that is fitted to them ranks them. Shared
// by the demos that fit one; after comparing.js.

const FEWEST = 8; // comparisons that a reward model is fitted to

const forgetting = ["forget them all", "press again to forget them all"];

// Pairs to compare. `read()` gives the state, with `pairs`; `redraw()` is called after each choice.
function comparisonStage({ read, redraw }) {
  const skipped = new Set();
  let kept = true; // whether the browser keeps them
  let sure = false; // that they are to be forgotten
  let shown = false;
  const openPair = () => {
    const all = keptComparisons();
    const open = read().pairs.filter((pair) => !all.some(ofSamePair(pair)));
    return open.find((pair) => !skipped.has(pair[0])) ?? open[0] ?? null;
  };
  const acting = (act) => () => {
    if (!shown) return;
    sure = false;
    act();
    redraw();
  };
  const [first, second] = SIDES.map((side) =>
    acting(() => {
      const pair = openPair();
      if (pair) kept = keepChoice(pair, side);
    }),
  );
  const skip = acting(() => {
    const pair = openPair();
    if (pair && skipped.has(pair[0])) skipped.clear(); // all that is open has been skipped: start over
    if (pair) skipped.add(pair[0]);
  });
  const undo = acting(() => keepComparisons(keptComparisons().slice(0, -1)));
  const acts = { ArrowLeft: first, ArrowRight: second, s: skip, u: undo, Backspace: undo };
  const choose = (side) => (side === "first" ? first : second)();
  const stage = pairStage({ choose, acts: () => acts });
  const download = button({ control: "download", label: "download your comparisons" }, "download", () =>
    saveComparisons(keptComparisons()),
  );
  const forget = button({ control: "forget", label: "forget your comparisons" }, forgetting[0], () => {
    if (sure) keepComparisons([]);
    sure = !sure;
    redraw();
  });
  const bar = buttons(
    null,
    button({ control: "skip", label: "skip this pair" }, "can’t tell (S)", skip),
    button({ control: "undo", label: "take the last comparison back" }, "undo (U)", undo),
    download,
    forget,
  );
  const count = html("p", { class: "rlhf-legend", "data-name": "comparisons" });
  const comparing = html("div", {}, stage.element, html("div", { class: "rlhf-control" }, bar));
  const element = html("div", { class: "rlhf-taste" }, comparing, count);
  return {
    element,
    // `idle`: pairs can be compared; else `words` are there in their place.
    show({ shown: there, idle, words }) {
      element.hidden = !there;
      shown = there && idle;
      comparing.hidden = !shown;
      const many = keptComparisons().length;
      for (const one of [download, forget]) one.disabled = !many;
      forget.textContent = forgetting[Number(sure)];
      stage.show({
        pair: openPair(),
        words: "Which reply is better? Click here once, then use ← and →.",
        keys: "Two replies: left arrow if the first is better, right arrow if the second is",
      });
      showText(count, idle ? countOf(many, kept) : words, many);
    },
  };
}

function countOf(many, kept) {
  const where = kept
    ? "They stay in this browser, and those made in the chapter on preferences count too."
    : "This browser keeps nothing: they are gone when you leave. Download keeps them.";
  const more =
    many < FEWEST ? ` At least ${FEWEST} make a reward model; 40 that follow a rule make a good one.` : "";
  return `${many} comparisons.${more} ${where}`;
}

// The mean of the last few steps of the fit.
function fitWords(fit) {
  if (!fit.length) return "";
  const few = fit.slice(-5);
  const share = sum(few.map((one) => one.accuracy)) / few.length;
  const ranked = `ranks ${format(100 * share, 0)} % of your comparisons as you did`;
  return `The reward model, after ${fit.length} steps, ${ranked}.`;
}
