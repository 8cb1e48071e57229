"use strict";
(() => {
  const root = document.documentElement;
  const tip = document.querySelector(".tip");
  const hidden = new Set();
  const names = new Map();
  root.classList.add("js");

  for (const button of document.querySelectorAll(".key button")) {
    const slot = button.dataset.slot;
    names.set(slot, button.title);
    button.addEventListener("click", () => {
      const off = !hidden.has(slot);
      if (off) hidden.add(slot); else hidden.delete(slot);
      button.setAttribute("aria-pressed", String(!off));
      for (const mark of document.querySelectorAll(`.canvas [data-r="${slot}"]`)) mark.classList.toggle("off", off);
    });
  }

  const nearest = (points, x, y, reach) => {
    let best = null, distance = reach * reach;
    for (const point of points) {
      const d = (point[0] - x) ** 2 + (point[1] - y) ** 2;
      if (d < distance && !hidden.has(point[2])) [best, distance] = [point, d];
    }
    return best;
  };

  for (const canvas of document.querySelectorAll(".canvas")) {
    const svg = canvas.querySelector("svg");
    const ring = svg.appendChild(document.createElementNS(svg.namespaceURI, "circle"));
    ring.setAttribute("class", "ring");
    ring.setAttribute("r", "7");
    let points = null;
    const leave = () => { tip.hidden = true; ring.classList.remove("on"); };
    canvas.addEventListener("pointermove", (event) => {
      points ??= canvas.dataset.hover.split("\n").map((line) => line.split("\t"));
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      const point = nearest(points, at.x, at.y, 26);
      if (!point) return leave();
      ring.setAttribute("cx", point[0]);
      ring.setAttribute("cy", point[1]);
      ring.classList.add("on");
      const head = document.createElement("b");
      head.textContent = names.get(point[2]);
      tip.replaceChildren(head, document.createTextNode(point[3]));
      tip.hidden = false;
      const left = Math.min(event.clientX + 14, root.clientWidth - tip.offsetWidth - 8);
      const above = event.clientY - tip.offsetHeight - 14;
      tip.style.transform = `translate(${Math.max(8, left)}px, ${above < 8 ? event.clientY + 18 : above}px)`;
    });
    canvas.addEventListener("pointerleave", leave);
  }
})();
