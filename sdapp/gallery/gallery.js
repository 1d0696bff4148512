// Shows the images of a folder, of which only those on the screen are in the page.
(() => {
  const entries = JSON.parse($("#data").textContent);
  const main = $("main"), list = $("#list"), viewer = makeViewer(), other = $("#other");
  const GAP = 14, CAPTION = 62, NARROWEST = matchMedia("(width <= 900px)").matches ? 104 : 168;
  const page = decodeURIComponent(location.pathname);
  const folder = page.slice(0, page.lastIndexOf("/") + 1).replace(/^\/(?=[A-Z]:\/)/, ""); // /C:/ on Windows
  const pathOf = (entry) => (location.protocol === "file:" ? folder : "") + decodeURIComponent(entry.file);
  const likeness = (entry) => (entry.similarity === undefined ? [] : [`CLIP similarity ${entry.similarity.toFixed(3)}`]);
  const facts = (entry) => [...Object.entries(entry.settings ?? {}).map(([key, value]) => `${key.replaceAll("_", " ")} ${value}`), ...likeness(entry)];
  const nameOf = (entry) => decodeURIComponent(entry.file ?? "") || `line ${entry.line}`;

  for (const [number, entry] of entries.entries()) {
    entry.number = number;
    entry.status ??= "done";
    const label = Object.entries(entry.labels ?? {}).flat();
    const words = [entry.prompt, nameOf(entry), `line ${entry.line}`, ...facts(entry), ...label, entry.message];
    entry.text = words.join(" ").toLowerCase();
    entry.src = entry.thumbnail ?? entry.file;
    entry.alt = `${nameOf(entry)}: ${entry.prompt ?? ""} ${entry.message ?? ""}`.trim();
  }

  // --- stars and rejects: the browser keeps them ----------------------------------------------------------------------
  const key = `sdapp-marks:${page}`;
  let marks = {}; // star or reject, by the file
  try { marks = JSON.parse(kept.get(key) ?? "{}"); } catch { /* broken: begin anew */ }
  const LISTS = { star: ["starred.txt", "starred"], reject: ["rejected.txt", "rejected"] };
  const marked = (mark) => entries.filter((entry) => entry.file && marks[entry.file] === mark);

  function toggle(entry, mark) {
    if (!entry?.file) return;
    if (marks[entry.file] === mark) delete marks[entry.file]; else marks[entry.file] = mark;
    kept.set(key, JSON.stringify(marks));
    tell();
    const tile = tiles.get(entry.number);
    if (tile) fill(tile, entry);
    if (viewer.dialog.open) show();
  }

  function tell() {
    for (const [mark, [file, word]] of Object.entries(LISTS)) {
      const number = marked(mark).length, button = $(`#save-${mark}`);
      button.textContent = `Save ${file} (${number})`;
      button.title = `The paths of the ${word} images; sdapp replay and sdapp batch take this file`;
      button.hidden = !number;
    }
  }

  function save(mark) {
    const [file, word] = LISTS[mark], found = marked(mark);
    const head = `# ${found.length} ${word} images. To paint them again: sdapp replay ${file}, or sdapp batch ${file} --out FOLDER\n`;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([head, ...found.map((entry) => `${pathOf(entry)}\n`)], { type: "text/plain" }));
    link.download = file;
    link.click();
    URL.revokeObjectURL(link.href);
  }
  for (const mark of Object.keys(LISTS)) $(`#save-${mark}`).addEventListener("click", () => save(mark));

  // --- filters ---------------------------------------------------------------------------------------------------------
  // A setting that has a few different values can be chosen.
  const values = new Map();
  for (const entry of entries) {
    for (const [name, value] of Object.entries({ ...entry.settings, ...entry.labels })) {
      if (!values.has(name)) values.set(name, new Set());
      values.get(name).add(value);
    }
  }
  const facets = [...values].filter(([name, some]) => name !== "seed" && some.size > 1 && some.size <= 40).slice(0, 6);
  const numbers = new Intl.Collator("en", { numeric: true });
  const choices = facets.map(([name, some]) => {
    const select = document.createElement("select"), words = name.replaceAll("_", " ");
    select.setAttribute("aria-label", words);
    select.append(new Option(`${words}: any`, ""), ...[...some].sort(numbers.compare).map((value) => new Option(`${words} ${value}`, `=${value}`)));
    $("#filters").append(select);
    return [name, select];
  });

  const order = $("#order");
  order.hidden = !entries.some((entry) => entry.similarity !== undefined);
  let shown = entries;
  function filter() {
    const words = $("#words").value.toLowerCase().split(/\s+/).filter(Boolean), which = $("#marked").value;
    const chosen = choices.filter(([, select]) => select.value);
    shown = entries.filter((entry) => {
      const mark = marks[entry.file];
      if (which === "failed" ? entry.status === "done" : which === "none" ? mark === "reject" : which && mark !== which) return false;
      return words.every((word) => entry.text.includes(word))
        && chosen.every(([name, select]) => `=${entry.settings?.[name] ?? entry.labels?.[name]}` === select.value);
    });
    if (order.value) {
      const sign = order.value === "most" ? 1 : -1, last = -sign * Infinity; // images without the number come last
      shown.sort((one, other) => sign * ((other.similarity ?? last) - (one.similarity ?? last) || 0));
    }
    const failed = shown.filter((entry) => entry.status !== "done").length;
    const of = shown.length < entries.length ? ` of ${entries.length.toLocaleString("en")}` : "";
    $("#count").textContent = `${(shown.length - failed).toLocaleString("en")}${of} images${failed ? `, ${failed.toLocaleString("en")} failed` : ""}`;
    $("#nothing").hidden = shown.length > 0;
    main.scrollTop = 0;
    at = 0;
    lay();
  }
  for (const input of [$("#words"), $("#marked"), order, ...choices.map(([, select]) => select)]) input.addEventListener("input", filter);

  // --- the tiles on the screen ------------------------------------------------------------------------------------------
  const tiles = new Map(); // by the number of the entry
  const largest = Math.max(...entries.filter((entry) => entry.size).map((entry) => Math.max(...entry.size)), 1);
  let columns = 1, cell = 0, at = 0, pinned = null; // `at` is the place of the tile that Tab reaches

  function measure() {
    const width = list.clientWidth;
    columns = Math.max(1, Math.floor((width + GAP) / (NARROWEST + GAP)));
    cell = Math.floor((width - GAP * (columns - 1)) / columns);
    const whole = cell >= 2 * largest; // small images only at whole multiples, so that pixels stay sharp
    if (whole) cell -= cell % largest;
    list.classList.toggle("coarse", whole);
    list.style.setProperty("--cell", `${cell}px`);
  }

  function lay() {
    const step = cell + CAPTION, rows = Math.ceil(shown.length / columns);
    list.style.height = `${rows * step}px`;
    const first = Math.max(0, Math.floor(main.scrollTop / step) - 2);
    const last = Math.min(rows, Math.ceil((main.scrollTop + main.clientHeight) / step) + 2);
    const wanted = new Set();
    for (let place = first * columns; place < Math.min(last * columns, shown.length); place++) {
      const entry = shown[place];
      wanted.add(entry.number);
      if (!tiles.has(entry.number)) add(entry);
      const tile = tiles.get(entry.number);
      tile.style.width = `${cell}px`;
      tile.style.height = `${step - GAP / 2}px`;
      tile.style.transform = `translate(${(place % columns) * (cell + GAP)}px, ${Math.floor(place / columns) * step}px)`;
      tile.dataset.place = place;
      $(".open", tile).tabIndex = place === at ? 0 : -1;
      tile.setAttribute("aria-setsize", shown.length);
      tile.setAttribute("aria-posinset", place + 1);
    }
    for (const [number, tile] of tiles) {
      if (wanted.has(number)) continue;
      $("img", tile).removeAttribute("src"); // what is not loaded yet need not be
      tile.remove();
      tiles.delete(number);
    }
  }

  function add(entry) {
    const tile = $("#tile").content.firstElementChild.cloneNode(true);
    tiles.set(entry.number, tile);
    fill(tile, entry);
    list.append(tile);
  }

  function fill(tile, entry) {
    tile.dataset.status = entry.status;
    tile.dataset.mark = marks[entry.file] ?? "";
    tile.toggleAttribute("data-pinned", pinned === entry);
    const image = $("img", tile);
    image.hidden = !entry.src;
    if (entry.src && image.getAttribute("src") !== entry.src) image.src = entry.src;
    $(".message", tile).textContent = entry.message ?? "";
    $(".words", tile).textContent = entry.prompt ?? "";
    $(".words", tile).title = entry.prompt ?? "";
    const seed = entry.settings?.seed;
    $(".note", tile).textContent = [entry.line ? `line ${entry.line}` : "", seed ? `seed ${seed}` : "", ...likeness(entry)].filter(Boolean).join(" · ") || nameOf(entry);
    $(".marks", tile).hidden = !entry.file;
    for (const button of $$(".mark", tile)) {
      const word = button.dataset.mark === "star" ? "Star" : "Reject";
      button.setAttribute("aria-pressed", marks[entry.file] === button.dataset.mark);
      button.setAttribute("aria-label", `${word} ${nameOf(entry)}`);
    }
  }

  function visit(place) {
    at = clamp(place, 0, shown.length - 1);
    const step = cell + CAPTION, top = Math.floor(at / columns) * step;
    if (top < main.scrollTop) main.scrollTop = top;
    else if (top + step > main.scrollTop + main.clientHeight - 28) main.scrollTop = top + step - main.clientHeight + 28;
    lay();
    const button = $(".open", tiles.get(shown[at]?.number) ?? document);
    button?.focus({ preventScroll: true });
  }

  const placeOf = (element) => Number(element.closest("[data-place]")?.dataset.place ?? -1);
  list.addEventListener("click", (event) => {
    const entry = shown[placeOf(event.target)], mark = event.target.closest(".mark");
    if (mark) toggle(entry, mark.dataset.mark);
    else if (entry && event.target.closest(".open")) open(entry);
  });
  list.addEventListener("focusin", (event) => {
    const place = placeOf(event.target);
    if (place < 0 || place === at) return;
    at = place;
    lay();
  });
  main.addEventListener("scroll", lay, { passive: true });
  new ResizeObserver(() => { measure(); lay(); }).observe(main);

  // --- comparing two images --------------------------------------------------------------------------------------------
  let a = entries[0], b = null;
  const beside = () => b ?? shown[shown.indexOf(a) + 1] ?? shown[shown.indexOf(a) - 1] ?? a;

  function open(entry) {
    a = entry;
    b = pinned;
    viewer.open();
    show();
  }
  viewer.dialog.addEventListener("close", () => visit(Math.max(0, shown.indexOf(a))));

  function show() {
    const second = beside(), place = shown.indexOf(a);
    const near = shown.slice(Math.max(0, place - 40), place + 41);
    const offered = [...new Set([second, ...(pinned ? [pinned] : []), ...marked("star").slice(0, 100), ...near])].sort((one, two) => one.number - two.number);
    $("#name-a").textContent = nameOf(a);
    $("#facts-a").textContent = facts(a).join(" · ");
    $("#facts-b").textContent = facts(second).join(" · ");
    other.replaceChildren(...offered.map((entry) => new Option(nameOf(entry), entry.number)));
    other.value = second.number;
    $("#where").textContent = $("#where").title = a.prompt ?? "";
    $("#copied").textContent = "";
    for (const button of $$("#viewer .mark")) button.setAttribute("aria-pressed", marks[a.file] === button.dataset.mark);
    for (const button of $$("#viewer .actions button")) button.disabled = !a.file;
    viewer.show(a, second);
  }
  other.addEventListener("change", () => { b = entries[Number(other.value)]; show(); });

  function pin(entry) {
    const before = pinned;
    pinned = b = pinned === entry ? null : entry;
    for (const one of [before, entry]) if (one && tiles.has(one.number)) fill(tiles.get(one.number), one);
    if (viewer.dialog.open) show();
  }

  // --- copying -------------------------------------------------------------------------------------------------------------
  const quoted = (text) => (/^[\w./:@%+=,-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`); // for a shell
  const texts = { command: (entry) => `sdapp replay ${quoted(pathOf(entry))}`, line: (entry) => entry.copy };
  async function copy(what, entry) {
    if (!entry?.file) return;
    const text = texts[what](entry);
    try { await navigator.clipboard.writeText(text); } catch { // not allowed for this page: the way of older browsers
      const field = document.createElement("textarea");
      field.value = text;
      (viewer.dialog.open ? viewer.dialog : document.body).append(field);
      field.select();
      document.execCommand("copy");
      field.remove();
    }
    $("#copied").textContent = "copied";
  }
  $(".actions").addEventListener("click", (event) => {
    const { mark, copy: what } = event.target.dataset;
    if (mark) toggle(a, mark);
    if (what) copy(what, a);
  });

  // --- keys ---------------------------------------------------------------------------------------------------------------
  const MOVES = { ArrowUp: () => -columns, ArrowDown: () => columns, ArrowLeft: () => -1, ArrowRight: () => 1 };
  const here = () => (viewer.dialog.open ? a : shown[at]);
  const everywhere = {
    f: () => toggle(here(), "star"), r: () => toggle(here(), "reject"), b: () => pin(here()),
    c: () => copy("command", here()), l: () => copy("line", here()), "?": () => $("#keys").showModal(),
  };
  function step(by) {
    a = shown[clamp(shown.indexOf(a) + by, 0, shown.length - 1)];
    viewer.front();
    show();
  }
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, input:not([type=range])") || $("#keys").open) return;
    const { key } = event, move = MOVES[key];
    let done = true;
    if (viewer.dialog.open && viewer.keys[key]) viewer.keys[key]();
    else if (viewer.dialog.open && move && event.target.matches("input")) done = false; // the slider has its own arrows
    else if (viewer.dialog.open && move) step(Math.sign(move()));
    else if (everywhere[key]) everywhere[key]();
    else if (viewer.dialog.open) done = false;
    else if (key === "/") $("#words").focus();
    else if (move) visit(event.target.closest(".tile") ? at + move() : at);
    else if (key === "Home" || key === "End") visit(key === "Home" ? 0 : shown.length - 1);
    else done = false;
    if (done) event.preventDefault();
  });

  measure();
  tell();
  filter();
})();
