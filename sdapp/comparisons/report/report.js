// The page works without this script. It shows other combinations, sorts, links plot and grid, and compares two images.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement, grid = $("#grid"), viewer = makeViewer();

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
    if (viewer.dialog.open) show();
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
  const other = $("#other");
  let a = home, b = null; // spots; null is the reference

  function open(spot) {
    a = spot;
    viewer.open();
    show();
  }
  viewer.dialog.addEventListener("close", () => { stay(a); buttonAt(a.scheduler, a.column).focus(); });

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
    viewer.show(first, second);
  }

  other.addEventListener("change", () => {
    const [scheduler, at] = other.value.split(" ").map(Number);
    b = other.value ? { scheduler, column: at } : null;
    show();
  });

  // --- keys ---------------------------------------------------------------------------------------------------------
  const inViewer = { ...viewer.keys, r: () => { b = null; show(); }, b: () => { b = a; show(); } };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select") || $("#keys").open) return;
    const { key } = event;
    const typing = event.target.matches("input") && key.startsWith("Arrow"); // the slider and the seeds have their own arrows
    let done = true;
    if (/^[1-9]$/.test(key)) choose(1, Number(key) - 1);
    else if (key === "[" || key === "]") choose(0, chosen[0] + (key === "]" ? 1 : -1));
    else if (key === "?") $("#keys").showModal();
    else if (viewer.dialog.open && inViewer[key]) inViewer[key]();
    else if (viewer.dialog.open && STEPS[key] && !typing) { a = moved(a, key); viewer.front(); show(); }
    else if (STEPS[key] && event.target.matches("#grid .cell, body, main")) {
      const spot = event.target.matches(".cell") ? moved(home, key) : home;
      buttonAt(spot.scheduler, spot.column).focus();
    } else done = false;
    if (done) event.preventDefault();
  });

  // The images of the first combination are in the page; the data does not repeat them.
  for (const button of $$(".cell")) entryAt(spotOf(button)).src = $("img", button).getAttribute("src");
  choose(0, 0);
  stay(home);
})();
