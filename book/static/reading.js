// What a reader without a mouse, or with a printer, needs of a page, and the theme and MathJax leave out.
"use strict";

{
  // An equation wider than its place scrolls there, and a keyboard reaches what scrolls.
  const REACHED = { tabindex: "0", role: "group", "aria-label": "equation" };
  const reach = (entries) => {
    for (const { target } of entries) {
      const wide = target.scrollWidth > target.clientWidth + 1;
      for (const [name, value] of Object.entries(REACHED)) {
        if (wide) target.setAttribute(name, value);
        else target.removeAttribute(name);
      }
    }
  };

  addEventListener("load", async () => {
    await window.MathJax?.startup?.promise;
    const sizes = new ResizeObserver(reach);
    for (const equation of document.querySelectorAll('mjx-container[display="true"]')) {
      sizes.observe(equation);
    }
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
