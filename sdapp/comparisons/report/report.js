"use strict";
// The page works without this script. It shows other combinations, sorts, links plot and grid, and compares two images.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const root = document.documentElement, grid = $("#grid"), viewer = $("#viewer");
  root.classList.add("js");

  // --- the chosen combination ------------------------------------------------------------------------------------------
  const chosen = data.axes.map(() => 0); // an index into each axis: prompt, seed, other keys
  let column = data.column; // the rows are sorted by this column
  const view = () => data.views[chosen.reduce((sum, value, axis) => sum * data.axes[axis] + value, 0)];
  const buttonAt = (scheduler, at) => $(`button[data-scheduler="${scheduler}"][data-column="${at}"]`, grid);
  const entryAt = (spot) => (spot ? view().cells[spot.scheduler][spot.column] : view().reference);

  function choose(axis, value) {
    if (value < 0 || value >= data.axes[axis]) return;
    chosen[axis] = value;
    if (axis === 0) {
      const select = $("#prompt");
      if (select) select.value = value;
      $("#words").textContent = data.prompts[value];
      $("#words").classList.toggle("long", data.prompts[value].length > 44);
    } else {
      const field = $(`fieldset[data-axis="${axis}"]`), select = field && $("select", field);
      if (select) select.value = value;
      else if (field) $(`input[value="${value}"]`, field).checked = true;
    }
    refresh();
  }

  function fill(button, entry) {
    const image = $("img", button);
    button.dataset.status = entry.status;
    button.setAttribute("aria-label", entry.alt);
    image.alt = entry.alt;
    image.hidden = !entry.src;
    if (entry.src) { if (image.getAttribute("src") !== entry.src) image.src = entry.src; } else image.removeAttribute("src");
    $(".message", button).textContent = entry.message ?? "";
  }

  function refresh() {
    const { reference, cells } = view();
    fill($("#reference"), reference);
    $(".beside .label").textContent = reference.label;
    $(".beside .note").textContent = reference.note;
    for (const button of $$(".cell", grid)) {
      const entry = cells[button.dataset.scheduler][button.dataset.column];
      fill(button, entry);
      button.toggleAttribute("data-below", Boolean(entry.below));
      const bar = $("rect", button);
      bar.setAttribute("width", 100 * (entry.bar ?? 0));
      bar.setAttribute("fill", entry.colour ?? "none");
      $(".error", button).textContent = entry.error ?? "";
      $(".note", button).textContent = entry.note ?? "";
    }
    if (viewer.open) show();
  }

  function sort(by) {
    column = by;
    $$("thead .sort", grid).forEach((button, at) => {
      if (at === by) button.parentElement.setAttribute("aria-sort", "ascending");
      else button.parentElement.removeAttribute("aria-sort");
    });
    for (const scheduler of data.order[by]) {
      const row = $(`tr[data-scheduler="${scheduler}"]`, grid);
      const median = data.medians[scheduler][by];
      $(".median", row).textContent = median && `median ${median}`;
      row.parentElement.append(row);
    }
  }

  // --- plot and grid highlight each other ------------------------------------------------------------------
  const plots = $$(".plot");
  const readout = $(".readout"), atRest = readout.textContent;
  function light(spot) {
    for (const item of $$(".lit")) item.classList.remove("lit");
    for (const plot of plots) plot.classList.toggle("lighting", Boolean(spot && $(`.curve[data-scheduler="${spot.scheduler}"]`, plot)));
    readout.textContent = atRest;
    if (!spot) return;
    const at = spot.column === undefined ? "" : `[data-column="${spot.column}"]`;
    $(`tr[data-scheduler="${spot.scheduler}"]`, grid).classList.add("lit");
    for (const item of $$(`.curve[data-scheduler="${spot.scheduler}"]`)) item.classList.add("lit");
    if (at) for (const item of $$(`[data-scheduler="${spot.scheduler}"]${at}`)) item.classList.add("lit");
    const title = at && $(`.plot.shown .point.lit title`);
    readout.textContent = title ? title.textContent : at ? entryAt(spot).alt : atRest;
  }
  const spotOf = (element) => {
    const item = element.closest?.("[data-scheduler]");
    return item && { scheduler: Number(item.dataset.scheduler), column: item.dataset.column === undefined ? undefined : Number(item.dataset.column) };
  };
  for (const side of [grid, ...plots]) {
    for (const kind of ["pointerover", "focusin"]) side.addEventListener(kind, (event) => light(spotOf(event.target)));
    for (const kind of ["pointerleave", "focusout"]) side.addEventListener(kind, () => light(null));
  }
  // Dots have titles for use without this script; with it, the line below the plot shows more.
  const axisButtons = $$(".chart .switch button");
  function axis(name) {
    for (const plot of plots) plot.classList.toggle("shown", plot.dataset.axis === name);
    for (const button of axisButtons) button.setAttribute("aria-pressed", button.dataset.axis === name);
  }
  for (const button of axisButtons) button.addEventListener("click", () => axis(button.dataset.axis));
  axis("unet_calls");
  $(".chart").addEventListener("click", (event) => {
    const spot = spotOf(event.target);
    if (spot?.column !== undefined) open(spot);
  });

  // --- the grid ----------------------------------------------------------------------------------------------------
  const order = () => data.order[column];
  let home = { scheduler: order()[0], column: 0 }; // the only cell that Tab reaches
  function stay(spot) {
    buttonAt(home.scheduler, home.column).tabIndex = -1;
    home = spot;
    buttonAt(home.scheduler, home.column).tabIndex = 0;
  }
  const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const moved = (spot, key) => ({
    scheduler: order()[clamp(order().indexOf(spot.scheduler) + STEPS[key][0], 0, order().length - 1)],
    column: clamp(spot.column + STEPS[key][1], 0, data.columns.length - 1),
  });
  grid.addEventListener("click", (event) => {
    const by = event.target.closest(".sort"), button = event.target.closest(".cell");
    if (by) sort(Number(by.dataset.column));
    if (button) open(spotOf(button));
  });
  grid.addEventListener("focusin", (event) => { if (event.target.matches(".cell")) stay(spotOf(event.target)); });
  $("#reference").addEventListener("click", () => open(home));
  $("#prompt")?.addEventListener("change", (event) => choose(0, Number(event.target.value)));
  for (const field of $$("fieldset")) field.addEventListener("change", (event) => choose(Number(field.dataset.axis), Number(event.target.value)));

  // Make images as large as fits with five rows visible; small images only at whole multiples, so that pixels stay sharp.
  const main = $("main");
  function fit() {
    if (matchMedia("(width <= 900px)").matches || matchMedia("print").matches) return grid.style.removeProperty("--cell");
    const names = $("thead th", grid).offsetWidth, gaps = 12 * data.columns.length + 30;
    let size = clamp(Math.floor((main.clientWidth - names - gaps) / data.columns.length), 88, Math.max(144, Math.floor(innerHeight / 5.6)));
    const natural = $$("img", grid).find((image) => image.naturalWidth)?.naturalWidth;
    const whole = natural && size >= 2 * natural;
    if (whole) size -= size % natural;
    root.classList.toggle("coarse", Boolean(whole));
    grid.style.setProperty("--cell", `${size}px`);
  }
  new ResizeObserver(fit).observe(main);
  addEventListener("load", fit);

  // --- comparing two images ---------------------------------------------------------------------------------------
  const stage = $(".stage"), panes = $$(".pane"), cut = $("#cut"), other = $("#other");
  let a = home, b = null; // spots; null is the reference
  let front = "a", zoom = 1, centre = [0.5, 0.5];

  function open(spot) {
    [a, front, zoom, centre] = [spot, "a", 1, [0.5, 0.5]];
    if (!viewer.open) viewer.showModal();
    show();
  }
  viewer.addEventListener("close", () => { stay(a); buttonAt(a.scheduler, a.column).focus(); });

  function show() {
    const first = entryAt(a), second = entryAt(b);
    const name = (entry) => entry.name ?? `Reference: ${entry.label}`;
    $("#name-a").textContent = name(first);
    $("#facts-a").textContent = (first.facts ?? []).join(" · ");
    $("#facts-b").textContent = (second.facts ?? [second.note]).join(" · ");
    other.replaceChildren(
      new Option(name(view().reference), ""),
      ...order().flatMap((scheduler) => data.columns.map((_, at) => new Option(view().cells[scheduler][at].name, `${scheduler} ${at}`))),
    );
    other.value = b ? `${b.scheduler} ${b.column}` : "";
    $("#where").textContent = data.prompts[chosen[0]];
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
    viewer.style.setProperty("--cut", `${cut.value / 10}%`);
    for (const layer of $$(".layer", panes[0])) layer.classList.toggle("front", layer.classList.contains(front));
    $(".now", panes[0]).textContent = viewer.dataset.mode === "abreast" ? "A" : front.toUpperCase();
    for (const button of $$("#viewer .switch button")) button.setAttribute("aria-pressed", button.dataset.mode === viewer.dataset.mode);
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

  function compare(mode) { viewer.dataset.mode = mode; front = "a"; lay(); }
  function blink() {
    if (viewer.dataset.mode !== "blink") viewer.dataset.mode = "blink";
    front = front === "a" ? "b" : "a";
    lay();
  }
  $("#viewer .switch").addEventListener("click", (event) => { if (event.target.dataset.mode) compare(event.target.dataset.mode); });
  $("#close").addEventListener("click", () => viewer.close());
  $(".zoom").addEventListener("click", (event) => { if (event.target.dataset.zoom) magnify(2 ** event.target.dataset.zoom); });
  cut.addEventListener("input", lay);
  other.addEventListener("change", () => {
    const [scheduler, at] = other.value.split(" ").map(Number);
    b = other.value ? { scheduler, column: at } : null;
    show();
  });
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
    if (fingers.delete(event.pointerId) && !dragged && kind === "pointerup" && viewer.dataset.mode === "blink") blink();
  });

  // --- keys ---------------------------------------------------------------------------------------------------------
  const inViewer = {
    " ": blink, s: () => compare("slider"), d: () => compare("difference"), x: () => compare("abreast"),
    r: () => { b = null; show(); }, b: () => { b = a; show(); },
    "+": () => magnify(2), "=": () => magnify(2), "-": () => magnify(0.5), "0": () => magnify(0),
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select") || $("#keys").open) return;
    const { key } = event;
    const typing = event.target.matches("input") && key.startsWith("Arrow"); // the slider and the seeds have their own arrows
    let done = true;
    if (/^[1-9]$/.test(key)) choose(1, Number(key) - 1);
    else if (key === "[" || key === "]") choose(0, chosen[0] + (key === "]" ? 1 : -1));
    else if (key === "?") $("#keys").showModal();
    else if (viewer.open && inViewer[key]) inViewer[key]();
    else if (viewer.open && STEPS[key] && !typing) { a = moved(a, key); front = "a"; show(); }
    else if (STEPS[key] && event.target.matches("#grid .cell, body, main")) {
      const spot = event.target.matches(".cell") ? moved(home, key) : home;
      buttonAt(spot.scheduler, spot.column).focus();
    } else done = false;
    if (done) event.preventDefault();
  });
  $("#ask").addEventListener("click", () => $("#keys").showModal());

  // --- dark and light -------------------------------------------------------------------------------------------------
  const kept = { get: () => { try { return localStorage.getItem("sdapp-theme"); } catch { return null; } },
    set: (value) => { try { localStorage.setItem("sdapp-theme", value); } catch { /* storage is not allowed */ } } };
  if (kept.get()) root.dataset.theme = kept.get();
  $("#theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    kept.set(root.dataset.theme);
  });

  // The images of the first combination are in the page; the data does not repeat them.
  for (const button of $$(".cell")) entryAt(spotOf(button)).src = $("img", button).getAttribute("src");
  choose(0, 0);
  stay(home);
})();
