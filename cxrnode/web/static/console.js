// What the pages need beyond HTML: the slider, copying, dialogs, choosing all. No page needs it to be read.
"use strict";
(function () {
  const root = document.documentElement;
  const kept = (function () { try { return localStorage.getItem("theme"); } catch { return null; } })();
  if (kept) root.dataset.theme = kept;

  function each(selector, within, act) { (within || document).querySelectorAll(selector).forEach(act); }

  // The map over the film: which finding, and how strongly.
  function blend() {
    const slider = document.getElementById("blend"), over = document.getElementById("map");
    if (!slider || !over) return;
    over.style.opacity = String(slider.value / 100);
    document.getElementById("blend-said").textContent = slider.value + "%";
  }
  function choose(radio) {
    const over = document.getElementById("map");
    if (!over) return;
    over.hidden = !radio.dataset.map;
    if (radio.dataset.map) { over.src = radio.dataset.map; over.alt = "Map of " + radio.dataset.title; }
    const said = document.getElementById("map-said");
    if (said) said.textContent = radio.dataset.title || "The film alone";
    blend();
  }
  document.addEventListener("input", function (event) {
    if (event.target.id === "blend") blend();
  });
  document.addEventListener("change", function (event) {
    const one = event.target;
    if (one.name === "shown") choose(one);
    if (one.id === "all") each("input[name=job]", null, function (box) { box.checked = one.checked; });
    if (one.id === "all" || one.name === "job") chosen();
    if (one.name === "act") acting(one.form);
  });
  function chosen() {
    const boxes = document.querySelectorAll("input[name=job]:checked").length;
    each("[data-chosen]", null, function (place) { place.textContent = String(boxes); });
    each("[data-needs-chosen]", null, function (one) { one.disabled = boxes === 0; });
  }
  function acting(form) {
    each("[data-for]", form, function (one) { one.hidden = !one.dataset.for.split(" ").includes(form.elements.act.value); });
  }
  document.addEventListener("click", function (event) {
    const one = event.target.closest("[data-opens], [data-closes], [data-copies], [data-theme-switch]");
    if (!one) return;
    if (one.dataset.opens) {
      const dialog = document.getElementById(one.dataset.opens);
      each("[data-set]", dialog, function (field) { if (one.dataset[field.dataset.set] !== undefined) field.value = one.dataset[field.dataset.set]; });
      each("[data-say]", dialog, function (place) { if (one.dataset[place.dataset.say] !== undefined) place.textContent = one.dataset[place.dataset.say]; });
      if (dialog.querySelector("[name=act]")) acting(dialog.querySelector("form"));
      dialog.showModal();
    } else if (one.dataset.closes !== undefined) {
      one.closest("dialog").close();
    } else if (one.dataset.copies) {
      const text = document.getElementById(one.dataset.copies).textContent;
      const said = function () { one.lastChild.textContent = "Copied"; };
      if (navigator.clipboard) navigator.clipboard.writeText(text).then(said);
      else { getSelection().selectAllChildren(document.getElementById(one.dataset.copies)); document.execCommand("copy"); said(); }
    } else {
      root.dataset.theme = root.dataset.theme === "light" ? "dark" : "light";
      try { localStorage.setItem("theme", root.dataset.theme); } catch { /* the choice lasts as long as the page */ }
    }
  });
  document.addEventListener("DOMContentLoaded", function () {
    const radio = document.querySelector("input[name=shown]:checked");
    if (radio) choose(radio);
    chosen();
    each("form", null, function (form) { if (form.elements.act) acting(form); });
  });
})();
