"use strict";
// Sorts and filters the slides of the page. Everything it needs is in the page.
(() => {
  const list = document.getElementById("slides");
  if (!list) return;
  const slides = [...list.children];
  const original = new Map(slides.map((slide, place) => [slide, place]));
  const search = document.getElementById("search");
  const order = document.getElementById("order");
  const shown = document.getElementById("shown");
  const kinds = [...document.querySelectorAll("button.kind")];

  function value(slide, key) {
    const text = slide.dataset[key] ?? "";
    const number = Number(text);
    return text !== "" && !Number.isNaN(number) ? number : text;
  }

  function compare(a, b, key) {
    const [x, y] = [value(a, key), value(b, key)];
    if (x === y) return original.get(a) - original.get(b);
    if (typeof x === "number" && typeof y === "number") return y - x;
    return String(x).localeCompare(String(y), undefined, { numeric: true });
  }

  function sort() {
    const key = order.value;
    const sorted = key === "" ? [...slides].sort((a, b) => original.get(a) - original.get(b))
      : [...slides].sort((a, b) => compare(a, b, key));
    list.append(...sorted);
  }

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = kinds.filter((kind) => kind.getAttribute("aria-pressed") === "true")
      .map((kind) => kind.dataset.kind);
    let count = 0;
    for (const slide of slides) {
      const text = slide.dataset.text;
      const fits = words.every((word) => text.includes(word))
        && (wanted.length === 0 || wanted.includes(slide.dataset.status)
          || wanted.includes(slide.dataset.stain) || wanted.includes(slide.dataset.doubt));
      slide.hidden = !fits;
      count += fits;
    }
    shown.textContent = count === slides.length ? "" : `${count} of ${slides.length} shown`;
  }

  function openTarget() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.matches("details.slide")) {
      target.open = true;
      target.scrollIntoView();
    }
  }

  for (const kind of kinds) {
    kind.addEventListener("click", () => {
      const pressed = kind.getAttribute("aria-pressed") === "true";
      kind.setAttribute("aria-pressed", String(!pressed));
      filter();
    });
  }
  search.addEventListener("input", filter);
  order.addEventListener("change", sort);
  addEventListener("hashchange", openTarget);
  let opened = [];
  addEventListener("beforeprint", () => {
    const few = slides.filter((slide) => !slide.hidden);
    opened = few.length > 100 ? [] : few.filter((slide) => !slide.open);
    for (const slide of opened) slide.open = true;
  });
  addEventListener("afterprint", () => {
    for (const slide of opened) slide.open = false;
  });
  document.body.classList.add("scripted");
  openTarget();
})();
