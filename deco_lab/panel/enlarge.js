// A click on a picture, or Enter, enlarges it: in a dialog, at a whole number of pixels for each of its
// own, and it goes on with what is drawn there.
(() => {
  "use strict";
  let dialog = null, source = null;

  function make() {
    dialog = document.createElement("dialog");
    dialog.className = "dl dl-dialog dl-enlarged";
    dialog.setAttribute("aria-labelledby", "dl-enlarged-title");
    dialog.innerHTML = `<h2 id="dl-enlarged-title"></h2><div class="dl-enlarged-sheet"><canvas role="img"></canvas></div>
      <form method="dialog"><span class="dl-note"></span><button class="dl-button">Close</button></form>`;
    document.body.append(dialog);
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // beside it
    dialog.addEventListener("close", () => (source = null));
  }
  function copy() {
    const canvas = dialog.querySelector("canvas"), { width, height } = source;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    context.drawImage(source, 0, 0);
    const zoom = Math.max(1, Math.floor(Math.min((innerWidth - 68) / width, (innerHeight - 150) / height)));
    canvas.style.width = `${width * zoom}px`;
    dialog.querySelector(".dl-note").textContent = `${width} × ${height} pixels, each ${zoom} × ${zoom}`;
  }
  function enlarge(canvas) {
    if (!dialog) make();
    source = canvas;
    const title = canvas.getAttribute("aria-label").replace(/^Enlarge: /, "");
    dialog.querySelector("h2").textContent = title;
    dialog.querySelector("canvas").setAttribute("aria-label", title);
    copy();
    canvas.focus({ preventScroll: true }); // where it comes back to
    dialog.showModal();
  }
  const pictureAt = ({ target }) => target.closest?.("canvas.dl-picture.dl-drawn");
  document.addEventListener("click", (event) => {
    const canvas = pictureAt(event);
    if (canvas) enlarge(canvas);
  });
  document.addEventListener("keydown", (event) => {
    const canvas = ["Enter", " "].includes(event.key) && pictureAt(event);
    if (!canvas) return;
    event.preventDefault();
    if (!event.repeat) enlarge(canvas);
  });
  window.addEventListener("resize", () => source && copy());

  // What a panel has drawn can be enlarged from then on.
  function drawn(canvas) {
    if (canvas === source) copy();
    if (canvas.tabIndex === 0 || !canvas.matches(".dl-picture")) return;
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "button");
    canvas.setAttribute("aria-label", `Enlarge: ${canvas.getAttribute("aria-label")}`);
  }
  Object.assign(DecoLab, { drawn });
})();
