"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const FACETS = ["seam", "verdict", "status", "topic"];
  const WEIGHTS = [8, 6, 5, 2, 2, 1]; // title, names, topics, summary, claim, verdict
  const PLAIN = { ø: "o", ł: "l", đ: "d", ß: "ss", æ: "ae", œ: "oe", ı: "i" };

  /** Lower case, without accents, with hyphens as spaces. */
  const fold = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase()
    .replace(/[øłđßæœı]/g, (letter) => PLAIN[letter]).replace(/[-\u2010-\u2015\u2212/_]/g, " ");

  const words = (query) => fold(query).split(/\s+/).filter(Boolean);

  /** How well folded fields match all words; 0 if one of the words is nowhere. The start of a word counts double. */
  const score = (fields, wanted) => {
    let total = 0;
    for (const word of wanted) {
      let best = 0;
      fields.forEach((field, i) => {
        const at = field.indexOf(word);
        if (at < 0) return;
        const starts = field.startsWith(word) || field.includes(" " + word);
        best = Math.max(best, WEIGHTS[i] * (starts ? 2 : 1));
      });
      if (!best) return 0;
      total += best;
    }
    return total + (fields[0].includes(wanted.join(" ")) ? WEIGHTS[0] : 0);
  };

  const setUp = (form) => {
    const list = document.getElementById(form.dataset.filters);
    const status = form.querySelector(".count");
    const nothing = document.querySelector(".nothing");
    const has = (name) => form.elements[name] !== undefined;
    const facets = FACETS.filter(has);
    const texts = typeof thalwegPapers === "undefined" ? {} : thalwegPapers;
    const items = [...list.children].map((node, order) => ({
      node,
      order,
      date: node.dataset.date ?? "",
      title: texts[node.id]?.[0] ?? "",
      fields: (texts[node.id] ?? []).map(fold),
      values: Object.fromEntries(facets.map((name) => [name, (node.dataset[name] ?? "").split("|")])),
      score: 0,
    }));
    let chosenSort = "";

    const value = (name) => (has(name) ? form.elements[name].value : "");
    const matches = (item, but) => facets.every((name) => name === but || !value(name) || item.values[name].includes(value(name)));

    /** Set a control. A value that no option has, from an old link say, becomes one, so that the form shows what it does. */
    const put = (name, wanted) => {
      const control = form.elements[name];
      if (control instanceof RadioNodeList) {
        const radios = [...control];
        (radios.find((radio) => radio.value === wanted) ?? radios[0]).checked = true;
        return;
      }
      if (control instanceof HTMLSelectElement && wanted && ![...control.options].some((o) => o.value === wanted)) {
        control.add(new Option(wanted, wanted));
      }
      control.value = wanted;
    };

    const readHash = () => {
      const given = new URLSearchParams(location.hash.slice(1));
      if (has("q")) form.elements.q.value = given.get("q") ?? "";
      for (const name of facets) put(name, given.get(name) ?? "");
      chosenSort = has("sort") && [...form.elements.sort.options].some((o) => o.value === given.get("sort")) ? given.get("sort") : "";
      update(false);
    };

    const writeHash = () => {
      const parts = new URLSearchParams();
      for (const name of ["q", ...facets]) if (value(name).trim()) parts.set(name, value(name).trim());
      if (chosenSort) parts.set("sort", chosenSort);
      const hash = parts.toString().replaceAll("+", "%20");
      if (hash !== location.hash.slice(1)) history.replaceState(null, "", hash ? "#" + hash : location.pathname + location.search);
    };

    const order = (sort) => (a, b) => {
      const first = {
        match: b.score - a.score,
        oldest: b.order - a.order,
        verdict: a.date < b.date ? 1 : a.date > b.date ? -1 : 0,
        title: a.title.localeCompare(b.title, "en"),
      }[sort] ?? 0;
      return first || a.order - b.order;
    };

    const countOptions = (found) => {
      for (const name of facets) {
        const counts = new Map();
        for (const item of found) if (matches(item, name)) for (const key of item.values[name]) counts.set(key, (counts.get(key) ?? 0) + 1);
        for (const label of form.querySelectorAll(`[name="${name}"] ~ span small[data-count]`)) label.textContent = counts.get(label.dataset.count) ?? 0;
        if (form.elements[name] instanceof HTMLSelectElement) {
          for (const option of form.elements[name].options) if (option.value) option.text = `${option.dataset.word ?? option.value} (${counts.get(option.value) ?? 0})`;
        }
      }
    };

    const update = (write = true) => {
      const wanted = words(value("q"));
      const found = items.filter((item) => !wanted.length || (item.score = score(item.fields, wanted)));
      const shown = new Set(found.filter((item) => matches(item)));
      const sort = chosenSort || (wanted.length ? "match" : "newest");
      if (has("sort")) form.elements.sort.value = sort;
      for (const item of items) item.node.hidden = !shown.has(item);
      const sorted = [...items].sort(order(sort));
      if (sorted.some((item, i) => list.children[i] !== item.node)) list.append(...sorted.map((item) => item.node));
      countOptions(found);
      const noun = shown.size === 1 && shown.size === items.length ? status.dataset.one : status.dataset.many;
      status.textContent = shown.size === items.length ? `${items.length} ${noun}` : `${shown.size} of ${items.length} ${noun}`;
      nothing.hidden = shown.size > 0;
      const filtered = wanted.length > 0 || facets.some(value) || chosenSort !== "";
      for (const button of document.querySelectorAll(".clear")) button.hidden = !filtered;
      if (write) writeHash();
    };

    const clear = () => {
      for (const name of ["q", ...facets]) if (has(name)) put(name, "");
      chosenSort = "";
      update();
    };

    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", (event) => { event.preventDefault(); clear(); });
    nothing.querySelector("button").addEventListener("click", () => { clear(); (form.elements.q ?? form).focus(); });
    form.addEventListener("input", (event) => {
      if (event.target.name === "sort") chosenSort = event.target.value;
      update();
    });
    // Links inside of the list add to what is chosen already.
    for (const link of document.querySelectorAll("[data-go]")) {
      link.href = "#" + link.dataset.go;
      link.addEventListener("click", (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        for (const [name, wanted] of new URLSearchParams(link.dataset.go)) put(name, wanted);
        update();
        form.scrollIntoView({ block: "start" });
      });
    }
    addEventListener("hashchange", () => { if (!location.hash || location.hash.includes("=")) readHash(); });
    addEventListener("keydown", (event) => {
      if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || !has("q")) return;
      if (event.target.closest("input, select, textarea, [contenteditable]")) return;
      event.preventDefault();
      form.elements.q.focus();
    });
    readHash();
    const more = form.querySelector(".more");
    if (!more) return;
    const narrow = matchMedia("(max-width: 46rem)");
    narrow.addEventListener("change", () => { more.open = !narrow.matches; }); // a wide page has no way to open it
    if (narrow.matches && !facets.some(value)) more.open = false;
  };

  document.addEventListener("DOMContentLoaded", () => {
    for (const form of document.querySelectorAll("[data-filters]")) setUp(form);
  });
})();
