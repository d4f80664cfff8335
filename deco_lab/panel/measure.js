// The Measure tab's panel: the figure of a study, and what is kept of it.
//
//   setup: {questions}, by the name of the study
//   show({status, text, view: {study, title, svg, zip}}): the view before stays where there is none
function mountMeasure(root, setup) {
  "use strict";
  const { announce, bytesOf, save } = DecoLab;
  root.classList.add("dl", "dl-measure");
  root.dataset.status = "idle";
  root.dataset.shown = 0;
  root.innerHTML = `
    <div class="dl-status"><p class="dl-says" role="status">Choose a study.</p></div>
    <section hidden><h2></h2><p class="dl-note"></p><img alt=""></section>`;
  const find = (selector) => root.querySelector(selector);
  let kept = null;
  document.addEventListener("click", (event) => {
    if (event.target.id !== "measure-zip") return;
    if (kept) save(`deco-lab-${kept.study}.zip`, "application/zip", bytesOf(kept.zip));
    else find(".dl-says").textContent = "There is nothing to keep yet.";
  });
  return {
    show(data) {
      announce(root, data);
      if (data.view) {
        kept = data.view;
        find("section").hidden = false;
        find("h2").textContent = setup.questions[kept.study];
        find(".dl-note").textContent = `${kept.title}. Bars and bands are 95% intervals.`;
        find("img").src = `data:image/svg+xml;base64,${kept.svg}`;
        find("img").alt = kept.title;
      }
      root.dataset.shown = +root.dataset.shown + 1;
    },
  };
}
