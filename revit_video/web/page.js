"use strict";
const of = id => document.getElementById(id);
const file = of("file"), budget = of("budget"), shipped = of("shipped"), drop = of("drop");
const shares = budget ? JSON.parse(budget.dataset.shares) : [];
let address = "";

if (budget) budget.addEventListener("input", () => {
  shipped.checked = false;
  of("share").textContent = `${Math.round(100 * shares[budget.value])} %`;
});
for (const kind of ["dragover", "dragleave", "drop"]) drop.addEventListener(kind, event => {
  event.preventDefault();
  drop.classList.toggle("over", kind === "dragover");
  if (kind === "drop" && event.dataTransfer.files.length) { file.files = event.dataTransfer.files; ask(); }
});
of("form").addEventListener("submit", event => { event.preventDefault(); ask(); });

async function ask() {
  const video = file.files[0];
  if (!video) return;
  of("error").textContent = "";
  of("answer").hidden = true;
  if (video.size > file.dataset.most) {
    of("error").textContent = `larger than the ${file.dataset.most >> 20} MB that are taken`;
    return;
  }
  of("ask").disabled = true;
  of("ask").textContent = "…";
  try {
    const asked = new URLSearchParams({ name: video.name });
    if (budget && !shipped.checked) asked.set("budget", shares[budget.value]);
    const headers = { "Content-Type": "application/octet-stream" };
    const response = await fetch(`/answer?${asked}`, { method: "POST", body: video, headers });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error);
    show(answer, video);
  } catch (error) {
    of("error").textContent = error instanceof TypeError ? "no answer: is the program still running?" : error.message;
  } finally {
    of("ask").disabled = false;
    of("ask").textContent = "Classify";
  }
}

function made(name, properties, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

function show(answer, video) {
  of("best").textContent = `${answer.classes[0][0]}, ${answer.classes[0][1]}`;
  of("classes").replaceChildren(...answer.classes.map(([name, percent, share]) => {
    const bar = made("i", {});
    bar.style.width = `${100 * share}%`;
    return made("div", { className: "class" }, made("span", { textContent: name }),
      made("div", { className: "bar" }, bar), made("span", { textContent: percent }));
  }));
  for (const name of ["length", "cost", "policy"]) of(name).textContent = answer[name];
  of("frames-title").textContent = answer.asked ? "The frames that the assigner saw" : "Frames of the clip";
  of("frames").replaceChildren(...answer.frames.map((source, n) => made("img", { src: source, alt: `frame ${n + 1}` })));
  if (address) URL.revokeObjectURL(address);
  address = URL.createObjectURL(video);
  if (answer.timeline) {
    const frame = made("iframe", { title: "Timeline of the video", srcdoc: answer.timeline });
    frame.addEventListener("load", () => { frame.contentDocument.querySelector("video").src = address; });
    of("player").replaceChildren(frame);
  } else if (video.type.startsWith("image/")) {
    of("player").replaceChildren();
  } else {
    of("player").replaceChildren(made("video", { src: address, controls: true, muted: true, ariaLabel: video.name }));
  }
  of("answer").hidden = false;
}
