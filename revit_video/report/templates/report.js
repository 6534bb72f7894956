"use strict";
const slider = document.getElementById("point");
if (slider) {
  const points = JSON.parse(document.getElementById("points").textContent);
  const show = () => {
    const point = points[slider.value];
    for (const place of document.querySelectorAll("[data-point]")) place.textContent = point[place.dataset.point];
    slider.setAttribute("aria-valuetext", `${point.top1}, ${point.cost}`);
    const mark = document.getElementById("at");
    if (mark) {
      const [x, perX, y, perY] = JSON.parse(mark.dataset.place);
      mark.setAttribute("cx", x + perX * point.place[0]);
      mark.setAttribute("cy", y + perY * point.place[1]);
    }
  };
  slider.addEventListener("input", show);
  show();
}
for (const look of document.querySelectorAll(".card details"))
  look.addEventListener("toggle", () => {
    const video = look.querySelector("video");
    if (look.open) video.play().catch(() => {}); else video.pause();
  });
