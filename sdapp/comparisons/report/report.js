// The report of a comparison: sorts the table, and links it with the plot.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  let column = data.column; // the rows are sorted by this column
  const table = makeTable(data, {
    order: () => data.order[column],
    fill: (button, entry) => {
      const bar = $("rect", button);
      if (!bar) { // the reference
        $(".beside .label").textContent = entry.title;
        $(".beside .note").textContent = entry.facts.join(" · ");
        return;
      }
      button.toggleAttribute("data-below", Boolean(entry.below));
      bar.setAttribute("width", 100 * (entry.bar ?? 0));
      bar.setAttribute("fill", entry.colour ?? "none");
      $(".error", button).textContent = entry.error ?? "";
    },
    chosen: ([prompt]) => {
      $("#words").textContent = data.prompts[prompt];
      $("#words").classList.toggle("long", data.prompts[prompt].length > 44);
    },
  });
  const { grid, entryAt, spotOf } = table;

  grid.addEventListener("click", (event) => {
    const by = event.target.closest(".sort");
    if (by) sort(Number(by.dataset.column));
  });
  function sort(by) {
    column = by;
    $$("thead .sort", grid).forEach((button, at) => {
      if (at === by) button.parentElement.setAttribute("aria-sort", "ascending");
      else button.parentElement.removeAttribute("aria-sort");
    });
    for (const index of data.order[by]) {
      const row = $(`tr[data-row="${index}"]`, grid);
      $(".median", row).textContent = data.medians[index][by];
      row.parentElement.append(row);
    }
  }

  // --- plot and table highlight each other ---------------------------------------------------------------------
  const plots = $$(".plot");
  const readout = $(".readout"), atRest = readout.textContent;
  function light(spot) {
    for (const item of $$(".lit")) item.classList.remove("lit");
    for (const plot of plots) plot.classList.toggle("lighting", Boolean(spot && $(`.curve[data-row="${spot.row}"]`, plot)));
    readout.textContent = atRest;
    if (!spot) return;
    const at = spot.column === undefined ? "" : `[data-column="${spot.column}"]`;
    $(`tr[data-row="${spot.row}"]`, grid).classList.add("lit");
    for (const item of $$(`.curve[data-row="${spot.row}"]`)) item.classList.add("lit");
    if (at) for (const item of $$(`[data-row="${spot.row}"]${at}`)) item.classList.add("lit");
    const title = at && $(`.plot.shown .point.lit title`);
    readout.textContent = title ? title.textContent : at ? entryAt(spot).label : atRest;
  }
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
    if (spot?.column !== undefined) table.open(spot);
  });
})();
