"use strict";
// Sorts tables, tells a trial under the pointer, and marks a chosen one in all figures. The page reads whole without it.
(() => {
  const told = JSON.parse(document.getElementById("trial-words").textContent);
  const hint = document.getElementById("hint");
  let chosen = null;

  const value = (row, place) => {
    const text = row.cells[place].textContent.trim();
    const number = parseFloat(text.replace("\u2212", "-"));
    return Number.isNaN(number) ? text.toLowerCase() : number;
  };

  const compare = (a, b) => {
    if (typeof a === typeof b) { return a < b ? -1 : a > b ? 1 : 0; }
    return typeof a === "number" ? -1 : 1;
  };

  const sort = (head) => {
    const table = head.closest("table");
    const down = head.getAttribute("aria-sort") !== "descending";
    table.querySelectorAll("th").forEach((each) => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => compare(value(a, head.cellIndex), value(b, head.cellIndex)) * (down ? -1 : 1));
    table.tBodies[0].append(...rows);
  };

  document.querySelectorAll(".sortable th").forEach((head) => {
    head.tabIndex = 0;
    head.title = "Sort by this column";
    head.addEventListener("click", () => sort(head));
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") { sort(head); } });
  });

  const choose = (trial) => {
    chosen = chosen === trial ? null : trial;
    document.body.classList.toggle("lit", chosen !== null);
    document.querySelectorAll("[data-trial]").forEach((each) => {
      each.classList.toggle("chosen", each.dataset.trial === chosen);
    });
  };

  // Paper has no place to click: what is folded is opened for it, and folded again.
  const folds = [...document.querySelectorAll("details")];
  window.addEventListener("beforeprint", () => folds.forEach((each) => { each.dataset.open = each.open; each.open = true; }));
  window.addEventListener("afterprint", () => folds.forEach((each) => { each.open = each.dataset.open === "true"; }));

  const drawn = document.querySelector("svg [data-trial]") !== null;
  document.querySelectorAll("[data-trial]").forEach((each) => {
    if (drawn && each.tagName === "TR") { each.title = "Click to mark this trial in the figures"; }
    each.addEventListener("click", () => choose(each.dataset.trial));
    if (each.tagName === "TR") { return; }
    each.addEventListener("pointermove", (event) => {
      hint.textContent = told[each.dataset.trial] || `trial ${each.dataset.trial}`;
      hint.hidden = false;
      const room = document.documentElement.clientWidth - hint.offsetWidth - 8;
      hint.style.left = `${Math.max(8, Math.min(event.clientX + 14, room))}px`;
      hint.style.top = `${event.clientY + 16}px`;
    });
    each.addEventListener("pointerleave", () => { hint.hidden = true; });
  });
})();
