// Turns the steps into a film: a slider, a button, and clicks on the strip choose the call that is shown large.
(() => {
  const steps = $$(".ten .step"), place = $("#place"), play = $("#play");
  let timer = null;

  function show(index) {
    const step = steps[index], [read, clean] = $$("img", step), { number, noise, timestep } = step.dataset;
    place.value = index;
    place.setAttribute("aria-valuetext", `call ${number}`);
    $("#film-read").src = read.src;
    $("#film-clean").src = clean.src;
    $("#film-noise").textContent = `noise ${noise}, t = ${timestep}`;
    $("#film-call").textContent = `call ${number}`;
    for (const each of steps) each.classList.toggle("now", each === step);
  }
  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
    play.setAttribute("aria-pressed", "false");
  }
  play.addEventListener("click", () => {
    if (timer) return stop();
    if (Number(place.value) === steps.length - 1) show(0);
    play.textContent = "Stop";
    play.setAttribute("aria-pressed", "true");
    timer = setInterval(() => {
      show(Math.min(Number(place.value) + 1, steps.length - 1));
      if (Number(place.value) === steps.length - 1) stop();
    }, 500);
  });
  place.addEventListener("input", () => { if (timer) stop(); show(Number(place.value)); });
  for (const [index, step] of steps.entries()) step.addEventListener("click", () => { stop(); show(index); });
  show(Math.floor((steps.length - 1) / 2));
})();
