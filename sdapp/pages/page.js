"use strict";
// What the pages share: selectors, the choice of dark or light, and the viewer, which compares two images A and B.
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
document.documentElement.classList.add("js");

// What the browser keeps of a page; nothing if it may not.
const kept = {
  get: (key) => { try { return localStorage.getItem(key); } catch { return null; } },
  set: (key, value) => { try { localStorage.setItem(key, value); } catch { /* storage is not allowed */ } },
};

(() => {
  const root = document.documentElement;
  if (kept.get("sdapp-theme")) root.dataset.theme = kept.get("sdapp-theme");
  $("#theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    kept.set("sdapp-theme", root.dataset.theme);
  });
  $("#ask")?.addEventListener("click", () => $("#keys").showModal());
})();

// An image is {status, src, file, alt, message}: `src` is shown at once, `file` as soon as it is loaded.
function makeViewer() {
  const dialog = $("#viewer"), stage = $(".stage"), panes = $$(".pane"), cut = $("#cut");
  const GAINS = [2, 4, 8];
  let front = "a", zoom = 1, centre = [0.5, 0.5], gain = 8;

  function open() {
    [front, zoom, centre] = ["a", 1, [0.5, 0.5]];
    if (!dialog.open) dialog.showModal();
  }

  function show(first, second) {
    for (const layer of $$(".layer", stage)) load(layer, layer.classList.contains("a") ? first : second);
    lay();
  }

  // Show the image inside the page first, then the lossless file next to it, if there is one.
  function load(layer, entry) {
    const image = $("img", layer);
    layer.dataset.status = entry.status;
    $(".message", layer).textContent = entry.message ?? "";
    image.hidden = !entry.src;
    image.alt = entry.alt;
    if (!entry.src || image.dataset.file === entry.file) return;
    image.dataset.file = entry.file;
    image.dataset.lossless = "no";
    image.onload = lay;
    image.src = entry.src;
    const whole = new Image();
    whole.onload = () => {
      if (image.dataset.file !== entry.file) return;
      image.src = whole.src;
      image.dataset.lossless = "yes";
    };
    whole.src = entry.file;
  }

  const naturalSize = () => {
    const image = $$("img", stage).find((one) => !one.hidden && one.naturalWidth);
    return image ? [image.naturalWidth, image.naturalHeight] : null;
  };
  function scaleOf(size) {
    const whole = Math.min(panes[0].clientWidth / size[0], panes[0].clientHeight / size[1]);
    return (whole >= 2 ? Math.floor(whole) : whole) * zoom;
  }

  function lay() {
    dialog.style.setProperty("--cut", `${cut.value / 10}%`);
    for (const layer of $$(".layer", panes[0])) layer.classList.toggle("front", layer.classList.contains(front));
    $(".now", panes[0]).textContent = dialog.dataset.mode === "abreast" ? "A" : front.toUpperCase();
    for (const button of $$("#viewer .switch button")) button.setAttribute("aria-pressed", button.dataset.mode === dialog.dataset.mode);
    const size = naturalSize();
    if (!size) { $("#percent").textContent = ""; return; }
    const scale = scaleOf(size);
    $("#percent").textContent = `${Math.round(scale * 100)} %`;
    for (const image of $$("img", stage)) {
      const room = image.closest(".pane");
      image.width = size[0];
      image.height = size[1];
      image.classList.toggle("coarse", scale >= 2);
      const [x, y] = [room.clientWidth / 2 - centre[0] * size[0] * scale, room.clientHeight / 2 - centre[1] * size[1] * scale];
      image.style.transform = `translate(${Math.round(x)}px, ${Math.round(y)}px) scale(${scale})`;
    }
  }

  // Zoom by a factor and keep the point at (x, y) of the pane in its place.
  function magnify(factor, x = panes[0].clientWidth / 2, y = panes[0].clientHeight / 2) {
    const size = naturalSize();
    if (!size) return;
    const before = scaleOf(size);
    zoom = clamp(zoom * factor, 1, 64);
    const after = scaleOf(size);
    const from = [x - panes[0].clientWidth / 2, y - panes[0].clientHeight / 2];
    centre = zoom === 1 ? [0.5, 0.5] : centre.map((at, i) => clamp(at + (from[i] / before - from[i] / after) / size[i], 0, 1));
    lay();
  }

  // The mode that is on already: blink shows the other image, difference takes the next factor.
  function compare(mode) {
    const again = dialog.dataset.mode === mode;
    if (again && mode === "blink") return blink();
    if (again && mode === "difference") gain = GAINS[(GAINS.indexOf(gain) + 1) % GAINS.length];
    $("[data-mode=difference]", dialog).textContent = `Difference ×${gain}`;
    dialog.style.setProperty("--gain", gain);
    dialog.dataset.mode = mode;
    front = "a";
    lay();
  }
  function blink() {
    if (dialog.dataset.mode !== "blink") dialog.dataset.mode = "blink";
    front = front === "a" ? "b" : "a";
    lay();
  }
  $(".switch", dialog).addEventListener("click", (event) => { if (event.target.dataset.mode) compare(event.target.dataset.mode); });
  $("#close").addEventListener("click", () => dialog.close());
  $(".zoom").addEventListener("click", (event) => {
    const { zoom: by, key } = event.target.dataset;
    if (by) magnify(2 ** by);
    if (key) dialog.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  });
  cut.addEventListener("input", lay);
  new ResizeObserver(lay).observe(stage);
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const place = (event.target.closest(".pane") ?? panes[0]).getBoundingClientRect();
    magnify(2 ** (-event.deltaY / 300), event.clientX - place.left, event.clientY - place.top);
  }, { passive: false });

  // One finger or the mouse moves the images, two fingers zoom, a tap blinks.
  const fingers = new Map();
  let dragged = false;
  stage.addEventListener("pointerdown", (event) => {
    if (event.target === cut) return;
    if (!fingers.size) dragged = false;
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    const was = fingers.get(event.pointerId), size = naturalSize();
    if (!was || !size) return;
    const now = [event.clientX, event.clientY];
    if (!dragged && Math.hypot(now[0] - was[0], now[1] - was[1]) < 4) return;
    dragged = true;
    const still = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
    fingers.set(event.pointerId, now);
    if (still) {
      const apart = (one) => Math.hypot(one[0] - still[0], one[1] - still[1]) || 1;
      const place = panes[0].getBoundingClientRect();
      magnify(apart(now) / apart(was), (now[0] + still[0]) / 2 - place.left, (now[1] + still[1]) / 2 - place.top);
    } else if (zoom > 1) {
      centre = centre.map((at, i) => clamp(at - (now[i] - was[i]) / (size[i] * scaleOf(size)), 0, 1));
      lay();
    }
  });
  for (const kind of ["pointerup", "pointercancel"]) stage.addEventListener(kind, (event) => {
    if (fingers.delete(event.pointerId) && !dragged && kind === "pointerup" && dialog.dataset.mode === "blink") blink();
  });

  const keys = {
    " ": blink, s: () => compare("slider"), d: () => compare("difference"), x: () => compare("abreast"),
    "+": () => magnify(2), "=": () => magnify(2), "-": () => magnify(0.5), "0": () => magnify(0),
  };
  return { dialog, open, show, keys, front: () => { front = "a"; } };
}
