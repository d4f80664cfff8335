// A control that was changed computes again at once: the browser says "change" when a slider is let
// go, a number is left or a box is ticked, by pointer and by keyboard alike; then the button "go" of
// the same group ("instant") is pressed. (Choices from lists are not inputs of the browser's own;
// deco_lab/page hears them.)
document.addEventListener("change", (event) => {
  const control = event.target, group = control.closest(".instant");
  if (!group || !["range", "number", "checkbox", "radio"].includes(control.type)) return;
  const go = group.querySelector("button.go");
  setTimeout(() => go.click()); // after Gradio has taken the value
});

// A list that is left by Tab would stay open over the page: Gradio takes the key for one that was
// typed, and shows what fits.
document.addEventListener("keydown", (event) => {
  if (["Tab", "Shift"].includes(event.key) && event.target.matches('[role="combobox"]')) event.stopImmediatePropagation();
}, true);

// On a narrow page the button "Settings" shows and hides what comes after it (panel/page.css).
document.addEventListener("click", (event) => {
  const button = event.target.closest(".fold button");
  button?.setAttribute("aria-expanded", button.getAttribute("aria-expanded") !== "true");
});

// "Keep ... (CSV)" keeps what the tab's panel shows.
document.addEventListener("click", (event) => {
  const [, tab] = /^(parts|loss)-csv$/.exec(event.target.id) || [];
  const panel = tab && document.querySelector(`#${tab} .dl`);
  if (panel?.view) DecoLab.save(`deco-lab-${tab}.csv`, "text/csv", DecoLab.csvOf(panel.view));
  else if (panel) panel.querySelector(".dl-says").textContent = "There is nothing to keep yet.";
});
