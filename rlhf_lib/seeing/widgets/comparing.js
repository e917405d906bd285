// Comparisons of two replies, which stay in the reader's browser from page to page, and the stage on which
// they are made. Shared by the annotator and the training on letters.

const KEPT_AS = "rlhf-comparisons"; // in the browser's storage

const SIDES = ["first", "second"];
const placeOf = (side) => 1 + SIDES.indexOf(side); // of a reply in its pair, after the prompt
const isPair = (pair) =>
  Array.isArray(pair) && pair.length === 3 && pair.every((words) => typeof words === "string");

const isComparison = (one) =>
  ["prompt", "chosen", "rejected"].every((side) => typeof one?.[side] === "string") &&
  one.chosen !== one.rejected;

// Where the browser keeps nothing (storage that is turned off, or full), they live as long as the page.
let inMemory = [];

function keptComparisons() {
  try {
    const found = JSON.parse(globalThis.localStorage.getItem(KEPT_AS) ?? "[]");
    return Array.isArray(found) ? found.filter(isComparison) : [];
  } catch {
    return inMemory;
  }
}

// Whether they outlive the page.
function keepComparisons(comparisons) {
  inMemory = comparisons;
  try {
    globalThis.localStorage.setItem(KEPT_AS, JSON.stringify(comparisons));
    return true;
  } catch {
    return false;
  }
}

const ofSamePair = (pair) => (one) =>
  one.prompt === pair[0] && pair.slice(1).includes(one.chosen) && pair.slice(1).includes(one.rejected);

const comparisonOf = (pair, side) => ({
  prompt: pair[0],
  chosen: pair[placeOf(side)],
  rejected: pair[3 - placeOf(side)],
});

// The label that a comparison gives to one of the pairs: its place and the side, or nothing.
function labelOf(comparison, pairs) {
  const place = pairs.findIndex((pair) => ofSamePair(pair)(comparison));
  return place < 0 ? [] : [[place, pairs[place][1] === comparison.chosen ? "first" : "second"]];
}

// The choice for a pair, in place of an earlier one.
const keepChoice = (pair, side) =>
  keepComparisons([...keptComparisons().filter((one) => !ofSamePair(pair)(one)), comparisonOf(pair, side)]);

const takeBack = (pair) => keepComparisons(keptComparisons().filter((one) => !ofSamePair(pair)(one)));

// Whether this is a page of the book, where nothing but the browser can keep a comparison.
const onBookPage = () => document.documentElement.dataset.content_root !== undefined;

// ---------------------------------------------------------------- the stage

function cardOf(side, choose) {
  const hint = html("span", { class: "rlhf-card-key" });
  const reply = html("span", { "data-name": side });
  const element = button({ control: side, class: "rlhf-card", ...OWN_KEYS }, "", () => choose(side));
  element.append(hint, reply);
  return {
    element,
    show(words, key, { picked, disabled }) {
      element.disabled = disabled;
      element.classList.toggle("rlhf-card-picked", picked === side);
      hint.textContent = picked === side ? "preferred" : key;
      reply.textContent = words;
    },
  };
}

const CHOOSE = ["← this one is better", "→ this one is better"];

// A pair with its keys; a click on it gives it the focus. `acts()` gives what each key does now, and
// `repeats()` whether a key that is held down does it again.
function pairStage({ choose, acts, repeats = () => false }) {
  const prompt = html("p", { class: "rlhf-ask", "data-name": "prompt" });
  const cards = SIDES.map((side) => cardOf(side, choose));
  const note = html("p", { class: "rlhf-note", "data-name": "note" });
  const names = { class: "rlhf-stage", tabindex: 0, role: "group", "data-control": "stage", ...OWN_KEYS };
  const pair = html("div", { class: "rlhf-cards" }, ...cards.map((card) => card.element));
  const element = html("div", names, prompt, pair, note);
  element.addEventListener("keydown", (event) => {
    const act = acts()[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    if (repeats() || !event.repeat) act();
  });
  return {
    element,
    // `pair`: prompt and two replies, or null where none is left; `still`: it is only shown.
    show({ pair, still = false, picked = null, words, keys }) {
      prompt.textContent = pair ? pair[0] : "All pairs are labelled.";
      for (const [i, card] of cards.entries()) {
        card.show(pair ? pair[i + 1] : "", still ? "" : CHOOSE[i], { picked, disabled: still || !pair });
      }
      note.textContent = words;
      attribute(element, "aria-label", keys);
    },
  };
}

// Comparisons leave the page as a file of the library's format.
function saveComparisons(comparisons) {
  const lines = comparisons.map((one, i) =>
    JSON.stringify({ kind: "label", id: `page-${Date.now()}-${i}`, annotator: "me", ...one }),
  );
  const file = new Blob([`${lines.join("\n")}\n`], { type: "application/jsonl" });
  const link = html("a", { download: "my-labels.jsonl", href: URL.createObjectURL(file) });
  link.click();
  URL.revokeObjectURL(link.href);
}
