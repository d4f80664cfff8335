// The Loss weights tab's panel: draws the views of deco_lab.workbench.loss.
//
//   setup: {bands, times}, names of the bands and TIMES of deco_lab.workbench.loss
//   show({status, text, weights, split, shares}): each view may be absent, the one before then stays
function mountLoss(root, setup) {
  "use strict";
  const { number, percent, announce, escape, unpackPictures, drawPictures } = DecoLab;
  const CHANNELS = [["Y", "brightness"], ["Cb", "blueness"], ["Cr", "redness"]];
  const KINDS = [["weights", "Weights", "Weight"], ["steps", "JPEG steps", "JPEG step"]];
  const TERMS = [["FM", "plain"], ["FreqFM", "weighted"]];
  const EIGHT = [0, 1, 2, 3, 4, 5, 6, 7];
  const table = (kind, said, channel, meaning) => `<table class="dl-eight" data-table="${kind}-${channel}">
      <caption>${said}s of ${channel}, ${meaning} <span data-range></span></caption>
      <thead><tr><td aria-hidden="true">↓ →</td>${EIGHT.map((v) =>
        `<th scope="col"><span class="dl-unseen">horizontal </span>${v}</th>`).join("")}</tr></thead>
      <tbody>${EIGHT.map((u) => `<tr><th scope="row"><span class="dl-unseen">vertical </span>${u}</th>${
        EIGHT.map(() => "<td>–</td>").join("")}</tr>`).join("")}</tbody></table>`;
  const picture = (key, title) => `<figure><figcaption>${title}</figcaption>
      <canvas class="dl-picture" data-canvas="${key}" width="1" height="1" role="img" aria-label="${title}"></canvas></figure>`;

  root.classList.add("dl", "dl-loss");
  root.dataset.status = "idle";
  root.dataset.shown = 0;
  root.dataset.kind = "weights";
  root.innerHTML = `
    <div class="dl-status"><p class="dl-says" role="status">Choose a quality and gamma.</p></div>
    <section>
      <div class="dl-head"><h2>What each frequency of an 8 × 8 block weighs</h2>
        <div class="dl-modes" role="group" aria-label="Which tables">${KINDS.map(([kind, name], i) =>
          `<button type="button" data-show="${kind}" aria-pressed="${!i}">${name}</button>`).join("")}</div></div>
      ${KINDS.map(([kind, , said]) => `<div class="dl-tables" data-kind="${kind}">${
        CHANNELS.map(([channel, meaning]) => table(kind, said, channel, meaning)).join("")}</div>`).join("")}
      <p class="dl-note dl-key"><span class="dl-swatch dl-favoured">favoured</span> weight 1 or more, bold;
        <span class="dl-swatch dl-neglected">neglected</span> below 1; <span class="dl-swatch dl-step">JPEG step</span> deeper where coarser.
        Rows are vertical frequency, columns horizontal; index n is n/16 cycles/pixel. Each table’s weights have mean 1.</p>
    </section>
    <section>
      <h2>A picture as the loss sees it</h2>
      <div class="dl-split">
        ${picture("original", "Picture")}${picture("favoured", "= favoured")}${picture("neglected", "+ neglected")}
        <div><table class="dl-energy"><caption>Favoured share of energy</caption>
          <thead><tr><th scope="col">channel</th><th scope="col">detail</th><th scope="col">all</th></tr></thead>
          <tbody>${[...CHANNELS.map(([channel]) => channel), "all"].map((channel) =>
            `<tr data-energy="${channel}"><th scope="row">${channel === "all" ? "together" : channel}</th><td>–</td><td>–</td></tr>`).join("")}</tbody></table>
          <p class="dl-note">“Detail” leaves out each block’s mean, which holds most of a picture’s energy.</p></div>
      </div>
      <p class="dl-note" data-note="split">Choose a picture to split.</p>
    </section>
    <section>
      <h2>Where this model’s loss comes from</h2>
      <p class="dl-note" data-note="shares">Not measured yet: “Measure the model’s loss” asks the loaded model at five times t and fills this table.</p>
      <table class="dl-shares"><caption>Share of the loss in each band at each t, % with 95% interval</caption>
        <thead><tr><th scope="col">cycles/<wbr>pixel</th>${setup.times.map((t) => `<th scope="col">t = ${number(t, 1)}</th>`).join("")}</tr></thead>
        ${setup.bands.map((band, k) => `<tbody>
          <tr><th scope="rowgroup" colspan="${setup.times.length + 1}">${escape(band)}</th></tr>${TERMS.map(([term, name]) =>
          `<tr data-share="${term}-${k}"><th scope="row">${name}</th>${setup.times.map(() =>
            '<td><b>–</b><small></small><i class="dl-bar"></i><i class="dl-span"></i></td>').join("")}</tr>`).join("")}</tbody>`).join("")}
        <tbody><tr><th scope="rowgroup" colspan="${setup.times.length + 1}">The loss itself</th></tr>${TERMS.map(([term, name]) =>
          `<tr data-loss="${term}"><th scope="row">${name}</th>${setup.times.map(() => "<td>–</td>").join("")}</tr>`).join("")}</tbody></table>
    </section>
    <details class="dl-help"><summary>What the words mean</summary><dl>
      <dt>Quality</dt><dd>JPEG quality whose quantisation steps the weights come from; at 100 all steps are 1 and so are the weights.</dd>
      <dt>JPEG step</dt><dd>What JPEG rounds a coefficient to a multiple of: coarse where eyes see little.</dd>
      <dt>Gamma</dt><dd>Exponent of the weights: 0 makes all of them 1, larger ones favour fine steps more.</dd>
      <dt>Y, Cb, Cr</dt><dd>Brightness, blueness and redness, in which the loss compares; Y has JPEG’s luminance table, Cb and Cr its chrominance table.</dd>
      <dt>Favoured</dt><dd>An error there counts as much as in the plain loss or more; the rest is neglected, not ignored.</dd>
      <dt>Share</dt><dd>The part of the loss that comes from errors in a band; the shares at one t sum to 100%.</dd>
      <dt>Plain, weighted</dt><dd>The flow-matching loss (FM), where all frequencies count alike in red, green and blue, and the frequency-aware one (FreqFM), with these weights.</dd>
      <dt>t</dt><dd>Time of sampling: 0 is noise, 1 the image.</dd>
    </dl></details>`;
  const find = (selector) => root.querySelector(selector);
  root.querySelectorAll("[data-show]").forEach((button) => button.addEventListener("click", () => {
    root.dataset.kind = button.dataset.show;
    root.querySelectorAll("[data-show]").forEach((b) => b.setAttribute("aria-pressed", b === button));
  }));

  // In at most four characters, whatever the size: 0.0031 is 3e−3.
  const short = (w) => w === 0 ? "0" : w < 0.01 ? `${w.toExponential(0).replace("-", "\u2212")}` : number(w, w < 9.995 ? 2 : w < 99.95 ? 1 : 0);
  const bare = (share) => percent(share).replace("%", "");

  function fill(kind, channel, rows, range, paint) {
    const node = find(`[data-table="${kind}-${channel}"]`);
    node.querySelector("[data-range]").textContent = range;
    node.querySelectorAll("tbody td").forEach((cell, i) => paint(cell, rows[Math.floor(i / 8)][i % 8], i));
  }
  function drawWeights({ channels }) {
    for (const one of channels) {
      const steps = one.quantisation_steps.flat(), weights = one.weights.flat(), favoured = one.favoured.flat();
      fill("steps", one.channel, one.quantisation_steps, `${Math.min(...steps)} to ${Math.max(...steps)}`, (cell, step) => {
        cell.textContent = step;
        cell.className = "dl-step";
        cell.style.setProperty("--dl-depth", `${(45 * Math.log(step) / Math.log(255)).toFixed(1)}%`);
      });
      const range = `${short(Math.min(...weights))} to ${short(Math.max(...weights))}, ${favoured.filter(Boolean).length} of 64 favoured`;
      fill("weights", one.channel, one.weights, range, (cell, weight, i) => {
        cell.textContent = short(weight);
        cell.className = favoured[i] ? "dl-favoured" : "dl-neglected";
        // Depth counts octaves away from 1, up to three: at quality 85 and gamma 1 there are two.
        const octaves = weight > 0 ? Math.abs(Math.log2(weight)) : 3;
        cell.style.setProperty("--dl-depth", `${(45 * Math.min(1, octaves / 3)).toFixed(1)}%`);
      });
    }
  }
  function drawSplit(split) {
    for (const key of ["original", "favoured", "neglected"])
      drawPictures(find(`[data-canvas="${key}"]`), unpackPictures(split[key]));
    for (const channel in split.favoured_share) {
      const [detail, all] = find(`[data-energy="${channel}"]`).querySelectorAll("td");
      detail.textContent = percent(split.favoured_share_of_detail[channel], 1);
      all.textContent = percent(split.favoured_share[channel], 1);
    }
    find('[data-note="split"]').textContent =
      `Quality ${split.quality}, gamma ${split.gamma}. Favoured and neglected sum to the picture. Neglected is shown ` +
      `${number(1 / split.scale, 1)} times as strong: grey is 0, white +${split.scale}, black −${split.scale}. ` +
      "Shares are of the energy in Y, Cb and Cr.";
  }
  function drawShares(view) {
    for (const [term] of TERMS) {
      view.shares[term].forEach((bands, time) => bands.forEach(({ value, low, high }, k) => {
        const cell = find(`[data-share="${term}-${k}"]`).querySelectorAll("td")[time];
        const [, , bar, span] = cell.children, at = (share) => `${100 * Math.min(1, Math.max(0, share || 0))}%`;
        cell.children[0].textContent = bare(value);
        cell.children[1].textContent = low === null ? "" : ` ${bare(Math.max(0, low))}–${bare(high)}`;
        bar.style.width = at(value);
        span.style.left = at(low);
        span.style.right = `calc(100% - ${at(high)})`;
      }));
      find(`[data-loss="${term}"]`).querySelectorAll("td").forEach((cell, time) => {
        cell.textContent = number(view.loss[term][time], 3);
      });
    }
    find('[data-note="shares"]').textContent =
      `${view.measured_on} Quality ${view.quality}, gamma ${view.gamma}; intervals are over ${view.interval_over}. ` +
      "Weights are applied to the errors of the model as it is: nothing is trained. The lowest band is each block’s mean.";
  }
  function show(data) {
    announce(root, data);
    for (const [name, draw] of [["weights", drawWeights], ["split", drawSplit], ["shares", drawShares]]) {
      if (!data[name]) continue;
      draw(data[name]);
      root.view = { ...root.view, [name]: data[name] };
    }
    root.dataset.shown = +root.dataset.shown + 1;
  }
  return { show };
}
