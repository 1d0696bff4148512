// A table of images that further axes choose, and the viewer for any two of them. The page works without this script.
// `data` has rows, columns, axes (their lengths), views (an entry for each row and column), and which axis the digits and
// the brackets choose. `hooks` are of the page: order() of the rows, fill(button, entry), light(spot), chosen(indexes).
function makeTable(data, hooks) {
  const root = document.documentElement, grid = $("#grid"), viewer = makeViewer(), other = $("#other"), reference = $("#reference");
  const chosen = data.axes.map(() => 0); // an index into each axis
  const view = () => data.views[chosen.reduce((sum, value, axis) => sum * data.axes[axis] + value, 0)];
  const buttonAt = (row, column) => $(`button[data-row="${row}"][data-column="${column}"]`, grid);
  const entryAt = (spot) => (spot ? view().cells[spot.row][spot.column] : view().reference);
  const order = hooks.order ?? (() => data.rows.map((_, row) => row));
  const spotOf = (element) => {
    const item = element.closest?.("[data-row]");
    return item && { row: Number(item.dataset.row), column: item.dataset.column === undefined ? undefined : Number(item.dataset.column) };
  };

  // --- the chosen combination ------------------------------------------------------------------------------------------
  function choose(axis, value) {
    if (axis === undefined || value < 0 || value >= data.axes[axis]) return;
    chosen[axis] = value;
    const field = $(`.choice[data-axis="${axis}"]`), select = field && $("select", field);
    if (select) select.value = value;
    else if (field && $("input", field)) $(`input[value="${value}"]`, field).checked = true;
    refresh();
  }

  function fill(button, entry) {
    const image = $("img", button);
    button.dataset.status = entry.status;
    button.setAttribute("aria-label", entry.label);
    image.alt = entry.alt;
    image.hidden = !entry.src;
    if (entry.src) { if (image.getAttribute("src") !== entry.src) image.src = entry.src; } else image.removeAttribute("src");
    $(".message", button).textContent = entry.message ?? "";
    const note = $(".note", button);
    if (note) note.textContent = entry.note ?? "";
    hooks.fill?.(button, entry);
  }

  function refresh() {
    if (reference) fill(reference, view().reference);
    for (const button of $$(".cell", grid)) fill(button, entryAt(spotOf(button)));
    hooks.chosen?.(chosen);
    if (viewer.dialog.open) show();
  }
  for (const field of $$(".choice")) field.addEventListener("change", (event) => choose(Number(field.dataset.axis), Number(event.target.value)));

  // --- the cells ---------------------------------------------------------------------------------------------------
  let home = { row: order()[0], column: 0 }; // the only cell that Tab reaches
  function stay(spot) {
    buttonAt(home.row, home.column).tabIndex = -1;
    home = spot;
    buttonAt(home.row, home.column).tabIndex = 0;
  }
  const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const moved = (spot, key) => ({
    row: order()[clamp(order().indexOf(spot.row) + STEPS[key][0], 0, order().length - 1)],
    column: clamp(spot.column + STEPS[key][1], 0, data.columns.length - 1),
  });
  grid.addEventListener("click", (event) => {
    const button = event.target.closest(".cell");
    if (button) open(spotOf(button));
  });
  grid.addEventListener("focusin", (event) => { if (event.target.matches(".cell")) stay(spotOf(event.target)); });
  reference?.addEventListener("click", () => open(home));

  // Make images as large as fits with all rows, or five, visible; small images only at whole multiples, so that pixels stay sharp.
  const main = $("main");
  function fit() {
    if (matchMedia("(width <= 900px)").matches || matchMedia("print").matches) return grid.style.removeProperty("--cell");
    const names = $("thead th", grid).offsetWidth, gaps = 12 * data.columns.length + 30;
    const rows = clamp(data.rows.length, 1, 5), high = Math.floor((innerHeight - 70) / rows) - 56;
    const natural = $$("img", grid).find((image) => image.naturalWidth)?.naturalWidth;
    const wide = grid.dataset.flow === undefined ? Math.floor((main.clientWidth - names - gaps) / data.columns.length) : 200;
    let size = clamp(wide, 88, Math.max(144, Math.min(high, natural > 128 ? natural : 3 * (natural ?? 64))));
    const whole = natural && size >= 2 * natural;
    if (whole) size -= size % natural;
    root.classList.toggle("coarse", Boolean(whole));
    grid.style.setProperty("--cell", `${size}px`);
  }
  new ResizeObserver(fit).observe(main);
  addEventListener("load", fit);

  // --- comparing two images ---------------------------------------------------------------------------------------
  let a = home, b = null; // spots; null is the reference, or, if there is none, the neighbour of A

  const second = () => (b || reference ? b : moved(a, a.column ? "ArrowLeft" : data.columns.length > 1 ? "ArrowRight" : "ArrowDown"));
  function open(spot) {
    a = spot;
    viewer.open();
    show();
  }
  viewer.dialog.addEventListener("close", () => { stay(a); buttonAt(a.row, a.column).focus(); });

  function show() {
    const spot = second(), entries = [entryAt(a), entryAt(spot)];
    $("#name-a").textContent = entries[0].name;
    $("#facts-a").textContent = (entries[0].facts ?? []).join(" · ");
    $("#facts-b").textContent = (entries[1].facts ?? []).join(" · ");
    other.replaceChildren(
      ...(reference ? [new Option(view().reference.name, "")] : []),
      ...order().flatMap((row) => data.columns.map((_, column) => new Option(view().cells[row][column].name, `${row} ${column}`))),
    );
    other.value = spot ? `${spot.row} ${spot.column}` : "";
    $("#where").textContent = view().where;
    viewer.show(...entries);
  }

  other.addEventListener("change", () => {
    const [row, column] = other.value.split(" ").map(Number);
    b = other.value ? { row, column } : null;
    show();
  });

  // --- keys ---------------------------------------------------------------------------------------------------------
  const inViewer = { ...viewer.keys, r: () => { b = null; show(); }, b: () => { b = a; show(); } };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select") || $("#keys").open) return;
    const { key } = event;
    const typing = event.target.matches("input") && key.startsWith("Arrow"); // the slider and the choices have their own arrows
    let done = true;
    if (/^[1-9]$/.test(key)) choose(data.digits, Number(key) - 1);
    else if (key === "[" || key === "]") choose(data.brackets, chosen[data.brackets] + (key === "]" ? 1 : -1));
    else if (key === "?") $("#keys").showModal();
    else if (viewer.dialog.open && inViewer[key]) inViewer[key]();
    else if (viewer.dialog.open && STEPS[key] && !typing) { a = moved(a, key); viewer.front(); show(); }
    else if (STEPS[key] && event.target.matches("#grid .cell, body, main")) {
      const spot = event.target.matches(".cell") ? moved(home, key) : home;
      buttonAt(spot.row, spot.column).focus();
    } else done = false;
    if (done) event.preventDefault();
  });

  // The images of the first combination are in the page; the data does not repeat them.
  for (const button of $$(".cell")) entryAt(spotOf(button)).src = $("img", button).getAttribute("src");
  refresh();
  stay(home);
  return { grid, entryAt, spotOf, open };
}
