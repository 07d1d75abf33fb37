"use strict";
// Pictures of the points of a latent map: under the pointer, or by the arrow keys.
for (const map of document.querySelectorAll(".map")) {
  const points = JSON.parse(map.querySelector("script").textContent);
  const svg = map.querySelector("svg");
  const circles = svg.querySelectorAll("circle");
  const sheet = map.querySelector("img.sheet");
  const tip = map.querySelector(".tip");
  const canvas = tip.querySelector("canvas");
  const text = tip.querySelector("span");
  const columns = Number(map.dataset.columns);
  const side = Number(map.dataset.side);
  let here = -1;

  function show(index) {
    if (here >= 0) circles[here].classList.remove("here");
    here = index;
    tip.hidden = index < 0;
    if (index < 0) return;
    const point = points[index];
    circles[index].classList.add("here");
    canvas.width = canvas.height = side;
    const left = (index % columns) * side, top = Math.floor(index / columns) * side;
    canvas.getContext("2d").drawImage(sheet, left, top, side, side, 0, 0, side, side);
    text.textContent = point[2];
    const scale = svg.clientWidth / svg.viewBox.baseVal.width;
    const x = point[0] * scale, y = point[1] * scale;
    const room = map.clientWidth - tip.offsetWidth;
    tip.style.left = Math.max(0, Math.min(room, x + 14)) + "px";
    tip.style.top = Math.max(0, y > svg.clientHeight / 2 ? y - tip.offsetHeight - 14 : y + 14) + "px";
  }

  function nearest(x, y, accept) {
    let best = -1, least = Infinity;
    points.forEach((point, index) => {
      const dx = point[0] - x, dy = point[1] - y, distance = dx * dx + dy * dy;
      if (distance < least && accept(dx, dy, index)) { least = distance; best = index; }
    });
    return best;
  }

  function under(event) {
    const box = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / box.width;
    show(nearest((event.clientX - box.left) * scale, (event.clientY - box.top) * scale, () => true));
  }

  svg.addEventListener("pointermove", under);
  svg.addEventListener("pointerdown", under);
  svg.addEventListener("pointerleave", () => show(-1));
  svg.addEventListener("blur", () => show(-1));
  svg.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key === "Escape") { show(-1); return; }
    const move = moves[event.key];
    if (!move || !points.length) return;
    event.preventDefault();
    if (here < 0) { show(0); return; }
    const [x, y] = points[here];
    const next = nearest(x, y, (dx, dy, index) => index !== here
      && dx * move[0] + dy * move[1] > 0
      && Math.abs(dx * move[1]) + Math.abs(dy * move[0]) <= Math.abs(dx * move[0] + dy * move[1]));
    if (next >= 0) show(next);
  });
}
