// What a reader without a mouse, or with a printer, needs of a page, and the theme and MathJax leave out.
"use strict";

{
  // An equation or a table wider than its place scrolls there, and a keyboard reaches what scrolls.
  const EQUATION = { tabindex: "0", role: "group", "aria-label": "equation" };
  const TABLE = { tabindex: "0" };

  function reach(place) {
    const wide = place.scrollWidth > place.clientWidth;
    for (const [name, value] of Object.entries(place.matches("table") ? TABLE : EQUATION)) {
      if (wide) place.setAttribute(name, value);
      else place.removeAttribute(name);
    }
  }

  addEventListener("load", async () => {
    await window.MathJax?.startup?.promise;
    const places = document.querySelectorAll('mjx-container[display="true"], .bd-article table.table');
    const sizes = new ResizeObserver((entries) => entries.forEach(({ target }) => reach(target)));
    for (const place of places) sizes.observe(place);
    document.fonts.addEventListener("loadingdone", () => places.forEach(reach)); // wider, in no new place
  });

  addEventListener("DOMContentLoaded", () => {
    const sidebar = document.querySelector(".bd-sidebar-primary");
    sidebar?.setAttribute("role", "region"); // its title and search are in no landmark otherwise
    sidebar?.setAttribute("aria-label", "Book");
  });

  // Paper cannot be unfolded: what is closed is printed open, and closed again afterwards.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll(".bd-article details:not([open])")];
    for (const fold of opened) fold.open = true;
  });
  addEventListener("afterprint", () => {
    for (const fold of opened) fold.open = false;
  });
}
