// The search beside Sphinx's own: chapters before the reference of the library; a hit leads to the
// section in which its words stand, and marks them there; no hit says so. From a file as well.

"use strict";

{
  const REFERENCE = "book/appendices/library";
  var Scorer = {
    // Sphinx's own, but for `score`: what a page of the book has comes before every entry there
    ...{ objNameMatch: 11, objPartialMatch: 6, objPrio: { 0: 15, 1: 5, 2: -5 }, objPrioDefault: 0 },
    ...{ title: 15, partialTitle: 7, term: 5, partialTerm: 2 },
    score: ([page, , , , score]) => (page === REFERENCE ? score - 1000 : score),
  };

  // A page opened from disk cannot fetch the excerpts that stand below each hit.
  if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

  // The marks of Sphinx in a hit's title and excerpt, and those on the page that was found.
  function styleMarks() {
    const style = document.createElement("style");
    style.textContent =
      ".search-mark, #search-results .highlighted " +
      "{ background: var(--pst-color-target); color: var(--pst-color-text-base); }" +
      ".search-marks { background: var(--pst-color-surface); border: 1px solid var(--pst-color-border); }" +
      ".search-marks button { border: 1px solid; color: var(--pst-color-text-base); }";
    document.head.append(style);
  }

  // On the page of results ---------------------------------------------------------------------------

  function prepareSearch() {
    styleMarks();
    const asked = new URLSearchParams(location.search).get("q")?.trim() ?? "";
    const counts = (word) => !stopwords.includes(word) && !/^\d+$/.test(word); // for Sphinx
    const words = splitQuery(asked.toLowerCase()).filter(counts);
    if (words.length)
      DOCUMENTATION_OPTIONS.LINK_SUFFIX += `?highlight=${encodeURIComponent(words.join(" "))}`;
    const none =
      "Your search did not match any documents. Please make sure that all words are spelled " +
      "correctly and that you've selected enough categories.";
    Object.assign(Documentation.TRANSLATIONS, {
      [none]:
        `Nothing in this book matches “${asked}”. A hit has all of the words: try fewer of them, ` +
        "another word for the same, or only the beginning of one.",
      // Sphinx puts the number in
      "Search finished, found ${resultCount} page(s) matching the search query.":
        "Places found: ${resultCount}. Chapters come first, then entries of the library's reference.",
    });
    const query = Search.query;
    Search.query = (text) => {
      Search.status.setAttribute("role", "status"); // so that a screen reader says it
      query(text);
    };
  }

  // On the page that was found -------------------------------------------------------------------------

  const NO_TEXT = "script, style, svg, button, textarea, mjx-container, .live-widget, .headerlink";
  const BLOCK = "h1, h2, h3, h4, p, li, dt, td, th, caption, figcaption, pre, summary";

  // Every word of the text that has the stem of one of these; failing that, that has one in it.
  function mark(article, words) {
    const stemmer = new Stemmer();
    const stems = new Map(words.map((word) => [stemmer.stemWord(word), word]));
    const ways = [
      (word) => stems.get(stemmer.stemWord(word)),
      (word) => words.find((one) => word.includes(one)),
    ];
    const walk = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
    const texts = [];
    while (walk.nextNode())
      if (!walk.currentNode.parentElement.closest(NO_TEXT)) texts.push(walk.currentNode);
    for (const asked of ways) {
      const marks = texts.flatMap((text) => {
        const found = [...text.data.matchAll(/[\p{L}\p{N}_]+/gu)]
          .map((match) => [match, asked(match[0].toLowerCase())])
          .filter(([, word]) => word);
        return found
          .reverse()
          .map(([match, word]) => {
            const range = document.createRange(); // from the last word on: the text before it stays
            range.setStart(text, match.index);
            range.setEnd(text, match.index + match[0].length);
            const one = Object.assign(document.createElement("mark"), { className: "search-mark" });
            one.dataset.word = word;
            range.surroundContents(one);
            return one;
          })
          .reverse();
      });
      if (marks.length) return marks;
    }
    return [];
  }

  // The marks in the place that has the most of the words, if possible side by side; of equals the first.
  function best(marks, words, placeOf) {
    const places = new Map();
    for (const one of marks) {
      const place = placeOf(one);
      places.set(place, [...(places.get(place) ?? []), one]);
    }
    const worth = ([place, some]) => {
      const text = place.textContent.toLowerCase().replace(/\s+/g, " ");
      const heading = some.some((one) => one.closest("h1, h2, h3, h4"));
      const said = new Set(some.map((one) => one.dataset.word)).size;
      return said + (text.includes(words.join(" ")) ? 0.5 : 0) + (heading ? 0.25 : 0);
    };
    return [...places].reduce((a, b) => (worth(b) > worth(a) ? b : a));
  }

  const blockOf = (one) => one.closest(BLOCK) ?? one.parentElement;

  function land(words) {
    const article = document.querySelector(".bd-article");
    const marks = article ? mark(article, words) : [];
    if (!marks.length) return;
    styleMarks();
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const within = target ? marks.filter((one) => target.contains(one)) : [];
    const [section, some] = best(
      within.length ? within : marks,
      words,
      (one) => one.closest("section") ?? article,
    );
    const [, [first]] = best(some, words, blockOf);
    const places = marks.filter((one, i) => i === 0 || blockOf(one) !== blockOf(marks[i - 1]));
    let at = places.indexOf(first);
    const go = () => {
      for (let e = places[at].closest("details"); e; e = e.parentElement.closest("details")) e.open = true;
      places[at].tabIndex = -1;
      places[at].focus({ preventScroll: true });
      places[at].scrollIntoView({ block: "center" });
    };
    if (section.id && !target) history.replaceState(null, "", `#${section.id}`);

    const bar = document.createElement("div");
    bar.className = "search-marks d-print-none position-fixed bottom-0 end-0 m-3 p-2 rounded";
    bar.setAttribute("role", "status");
    document.body.append(bar); // before its text, so that a screen reader says it
    bar.append(`${places.length} ${places.length === 1 ? "place is" : "places are"} marked. `);
    const button = (text, press) => {
      const one = Object.assign(document.createElement("button"), { textContent: text, onclick: press });
      one.className = "btn btn-sm";
      bar.append(one, " ");
    };
    const clear = () => {
      for (const one of marks) one.replaceWith(...one.childNodes);
      bar.remove();
    };
    button("Next", () => {
      at = (at + 1) % places.length;
      go();
    });
    button("Unmark", clear);
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") clear();
    });
    go();
  }

  _ready(() => {
    if (document.getElementById("search-results")) return prepareSearch();
    const words = new URLSearchParams(location.search)
      .get("highlight")
      ?.toLowerCase()
      .split(" ")
      .filter(Boolean);
    // when the page has its height, as far as it is known
    if (words?.length) window.addEventListener("load", () => land(words));
  });
}
