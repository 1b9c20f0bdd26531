"use strict";
// Sorting and filtering of tables; without this script every page is still complete.
(() => {
  const value = (row, i) => row.cells[i].textContent.trim();
  const amount = (text) => parseFloat(text.replace("\u2212", "-").replace(/,/g, ""));
  // Numbers come first, then texts; what is missing comes last in either direction.
  const rank = (text) => (text === "" || text === "\u2013" ? 2 : Number.isNaN(amount(text)) ? 1 : 0);
  const compare = (i, down) => (a, b) => {
    const [x, y] = [value(a, i), value(b, i)];
    const place = rank(x) - rank(y);
    if (place) return place;
    const order = (rank(x) === 0 && amount(x) - amount(y)) || x.localeCompare(y, "en", { numeric: true });
    return down ? -order : order;
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((head, i, all) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        all.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        body.append(...[...body.rows].sort(compare(i, down)));
      });
    });
  }
  for (const input of document.querySelectorAll("input[data-filters]")) {
    const table = document.getElementById(input.dataset.filters);
    const count = document.querySelector(`output[data-counts="${input.dataset.filters}"]`);
    input.closest(".filter").hidden = false;
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      const rows = [...table.tBodies[0].rows];
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      }
      count.textContent = words.length ? `${rows.filter((row) => !row.hidden).length} of ${rows.length}` : "";
    });
  }
  // What scrolls sideways on a narrow screen must be within reach of the keyboard.
  const drawings = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
      else target.removeAttribute("tabindex");
    }
  });
  for (const drawing of document.querySelectorAll(".drawing")) drawings.observe(drawing);
})();
