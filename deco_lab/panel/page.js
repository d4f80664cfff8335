// A control that was changed draws anew at once: the browser says "change" when a slider is let go,
// a number is left or a box is ticked, by pointer and by keyboard alike. (Choices from lists are not
// inputs of the browser's own; page/sample.py hears them.)
document.addEventListener("change", (event) => {
  const control = event.target;
  if (!control.closest("#controls") || !["range", "number", "checkbox"].includes(control.type)) return;
  setTimeout(() => document.getElementById("start").click()); // after Gradio has taken the value
});
