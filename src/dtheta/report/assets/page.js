"use strict";
(() => {
  const tip = document.getElementById("tip");
  const said = document.getElementById("said");

  // Native hover text is for pages without script; with script it becomes the tip, so that it does not show twice.
  for (const chart of document.querySelectorAll("svg.chart")) {
    chart.querySelector(":scope > title").remove();
    for (const mark of chart.querySelectorAll("[data-mark]")) {
      const title = mark.querySelector(":scope > title");
      mark.dataset.tip = title.textContent;
      title.remove();
    }
    chart.addEventListener("keydown", move);
  }

  function move(event) {
    const marks = [...event.currentTarget.querySelectorAll("[data-mark]:not(.off)")];
    const here = marks.indexOf(document.activeElement);
    const last = marks.length - 1;
    const there = { ArrowRight: here + 1, ArrowDown: here + 1, ArrowLeft: here - 1, ArrowUp: here - 1, Home: 0, End: last }[event.key];
    if (event.key === "Escape") document.activeElement.blur();
    if (there === undefined || here < 0) return;
    event.preventDefault();
    marks[here].tabIndex = -1;
    const next = marks[Math.max(0, Math.min(last, there))];
    next.tabIndex = 0;
    next.focus({ preventScroll: true });
  }

  function show(mark, x, y) {
    tip.textContent = mark.dataset.tip;
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    const left = x + 14 + width > innerWidth - 8 ? x - 14 - width : x + 14;
    const top = y + 16 + height > innerHeight - 8 ? y - 12 - height : y + 16;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${Math.max(8, top)}px`;
  }

  const markOf = (event) => event.target.closest?.("[data-mark]");
  document.addEventListener("pointermove", (event) => {
    const mark = markOf(event);
    if (mark) show(mark, event.clientX, event.clientY);
    else tip.hidden = true;
  });
  document.addEventListener("pointerleave", () => { tip.hidden = true; });
  document.addEventListener("focusin", (event) => {
    const mark = markOf(event);
    if (!mark || !mark.matches(":focus-visible")) return;
    const anchor = (mark.querySelector(".guide, .point, .heat-floor, .bar") ?? mark).getBoundingClientRect();
    show(mark, anchor.right, anchor.top + anchor.height / 2);
    said.textContent = mark.dataset.tip;
  });
  document.addEventListener("focusout", () => { tip.hidden = true; });

  // A legend entry shows or hides its series in the charts below it; the first mark left takes the Tab stop.
  for (const button of document.querySelectorAll("[data-toggle]")) {
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      const block = button.closest(".panels-block");
      for (const part of block.querySelectorAll("[data-series]")) {
        if (part.dataset.series === button.dataset.toggle) part.classList.toggle("off", !on);
      }
      for (const chart of block.querySelectorAll("svg.chart")) {
        const marks = [...chart.querySelectorAll("[data-mark]")];
        const first = marks.find((mark) => !mark.classList.contains("off"));
        for (const mark of marks) mark.tabIndex = mark === first ? 0 : -1;
      }
    });
  }

  for (const head of document.querySelectorAll("thead th")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => sort(head));
  }

  function sort(head) {
    const body = head.closest("table").tBodies[0];
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const order = (row) => row.children[head.cellIndex].dataset.order;
    const numeric = head.classList.contains("numeric");
    const compare = (a, b) => (numeric ? order(a) - order(b) : order(a).localeCompare(order(b), "en", { numeric: true }));
    body.append(...[...body.rows].sort((a, b) => (down ? -1 : 1) * compare(a, b)));
  }

  document.documentElement.dataset.ready = "true";
})();
