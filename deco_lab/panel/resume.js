// What a run goes on from, beside the form: the value of deco_lab.workbench.settings.Settings.origin.
//
//   mountOrigin(element, props, trigger, watch);
//
// Shown only where there is one; its button, and "Go on from here" of the Sample tab's panel, send a
// step, or nothing for the noise, under the name "resume".
function mountOrigin(root, props, trigger, watch) {
  "use strict";
  root.classList.add("dl", "dl-origin");
  root.innerHTML = `<p></p><button type="button" class="dl-button">Start from noise again</button>`;
  const says = root.querySelector("p");
  root.querySelector("button").addEventListener("click", () => {
    DecoLab.send("resume", "");
    document.getElementById("start")?.focus({ preventScroll: true });
  });
  const show = () => {
    let legs = [];
    try {
      legs = JSON.parse(props.value || "[]");
    } catch {} // the server says what is wrong
    root.hidden = !legs.length;
    const last = legs.at(-1);
    if (last) says.textContent = `Goes on from step ${last.step} of ${last.num_steps} of ${last.model}, seed ${legs[0].seed}: whatever is changed here redraws the rest.`;
  };
  watch("value", show);
  show();
}
