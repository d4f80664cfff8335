// The Decompose tab's panel: draws a deco_lab.workbench.parts.PartsView.
//
//   setup: {references}, deco_lab.workbench.parts.REFERENCES
//   show({status, text, view}): view may be absent, the one before then stays
function mountParts(root, setup) {
  "use strict";
  const { number, unpackPictures, drawPictures } = DecoLab;
  const NAMES = {
    velocity: "velocity", baseline: "baseline", dit: "DiT", decoder: "decoder",
    interaction: "interaction", condition: "condition",
  };
  const SPECTRA = ["velocity", "dit", "decoder", "baseline", "interaction", "condition"]
    .map((key) => ({ key, name: NAMES[key], look: `dl-part-${key}` }));
  const SHARES = ["baseline", "dit", "decoder", "interaction"];
  // One for each cluster: eight that are told apart with ease, and a paler one of each.
  const COLOURS = [
    "#1f4e79", "#d1570f", "#2f8f4e", "#b3383a", "#7d5ba6", "#8c6b4f", "#d678b0", "#a8a032",
    "#2aa5b5", "#9ec3e6", "#f5b97a", "#98d08e", "#f29a98", "#c4b0d9", "#cdb8a8", "#e6dc8a",
  ];
  const picture = (key, title, sign = "") => `<figure>${sign}
      <figcaption>${title}</figcaption>
      <canvas class="dl-picture" data-canvas="${key}" width="1" height="1" role="img" aria-label="${title}"></canvas>
      <p class="dl-rms" data-rms="${key}"></p></figure>`;
  const sign = (text) => `<span class="dl-sign" aria-hidden="true">${text}</span>`;
  const WHOSE = {
    shapley: "The interaction is within the parts already, half in DiT and half in decoder.",
    dit_first: "The interaction is within the decoder’s part already.",
    pixel_first: "The interaction is within the DiT’s part already.",
  };

  root.classList.add("dl", "dl-parts");
  root.dataset.status = "idle";
  root.dataset.shown = 0;
  root.innerHTML = `
    <div class="dl-status"><p class="dl-says" role="status">Choose an image, a time t and a seed, then “Take apart”.</p>
      <div class="dl-facts"><span>DiT passes <b data-fact="dit">–</b></span><span>decoder passes <b data-fact="decoder">–</b></span><span>ms <b data-fact="ms">–</b></span></div></div>
    <p class="dl-note dl-made" data-note="made"></p>
    <section><div class="dl-quad">
      ${picture("clean", "Image")}${picture("noisy", "Noisy image")}
      ${picture("predicted", "Predicted image")}${picture("map", "Condition, k-means map")}</div>
      <p class="dl-note" data-note="clusters"></p></section>
    <section><h2>Who draws the velocity</h2>
      <div class="dl-sum">${picture("velocity", "Velocity")}${picture("baseline", "Baseline", sign("="))}${
        picture("dit", "DiT", sign("+"))}${picture("decoder", "Decoder", sign("+"))}${picture("interaction", "Interaction")}</div>
      <p class="dl-note" data-note="scale"></p></section>
    <div class="dl-pair">
      <section class="dl-spectrum"></section>
      <section>
        <h2>Share of the velocity in each band</h2>
        <table class="dl-table"><thead><tr><th scope="col">cycles/<wbr>pixel</th>${
          SHARES.map((key) => `<th scope="col" class="dl-part-${key}">${NAMES[key]}</th>`).join("")}</tr></thead><tbody data-rows="shares"></tbody></table>
        <p class="dl-note">Baseline, DiT and decoder sum to 1; bars run from −1.5 to 1.5 about 0. Below 0 a part works against the velocity, and others then exceed 1. The interaction is within the parts.</p>
        <div class="dl-jacobian">
          <div><h2>What moves the velocity: Jacobian gain</h2>
            <table class="dl-table"><thead><tr><th scope="col">cycles/<wbr>pixel</th><th scope="col" class="dl-part-decoder">noisy pixels</th><th scope="col" class="dl-part-dit">condition</th></tr></thead><tbody data-rows="gain"></tbody></table></div>
          <figure><figcaption>Gain at each pixel</figcaption><canvas class="dl-picture" data-canvas="gain" width="1" height="1" role="img" aria-label="Jacobian gain at each pixel"></canvas></figure>
        </div>
        <p class="dl-note" data-note="gain"></p>
      </section>
    </div>
    <details class="dl-help"><summary>What the words mean</summary><dl>
      <dt>t</dt><dd>Time of sampling: 0 is noise, 1 the image.</dd>
      <dt>Noisy image</dt><dd>x<sub>t</sub> = t · image + (1 − t) · noise, what the model is given.</dd>
      <dt>Velocity</dt><dd>What the model answers, its guess of image − noise, for this class and without guidance.</dd>
      <dt>Predicted image</dt><dd>Where that velocity leads at once: x<sub>t</sub> + (1 − t) · velocity.</dd>
      <dt>Condition</dt><dd>What the DiT hands the pixel decoder: one token, a row of numbers, for each patch, so its frequencies end at half a cycle a patch.</dd>
      <dt>k-means map</dt><dd>Patches of one colour have similar tokens; the number of colours is chosen, not found.</dd>
      <dt>Reference</dt><dd>What stands for “no condition” and “no pixels”; each choice asks another question.</dd>
      <dt>Baseline</dt><dd>What the decoder draws of both references.</dd>
      <dt>DiT</dt><dd>What the condition adds to that.</dd>
      <dt>Decoder</dt><dd>What the noisy pixels add past the DiT, by the decoder’s direct path.</dd>
      <dt>Interaction</dt><dd>What both inputs do together and neither does alone; the order says whose it counts as.</dd>
      <dt>DCT energy</dt><dd>Mean squared coefficient of the cosine transform of 8 × 8 blocks; the paper draws log(1 + E) over its maximum.</dd>
      <dt>Share</dt><dd>A part’s inner product with the velocity in a band, over the velocity’s own energy there.</dd>
      <dt>Jacobian gain</dt><dd>How far the velocity moves when an input moves a little: 0.5 means that 1% more contrast in it moves the band by 0.5% of itself.</dd>
      <dt>Slope</dt><dd>How a pixel’s velocity moves with that pixel, with its sign: −1 / (1 − t) where the predicted image does not depend on the pixel, be it known or ignored.</dd>
      ${Object.entries(setup.references).map(([name, choices]) => `<dt data-choices="${name}"></dt><dd>${
        Object.keys(choices).map(() => "<b></b> <span></span> ").join("")}</dd>`).join("")}
    </dl></details>`;
  const find = (selector) => root.querySelector(selector);
  const spectrum = mountSpectrum(find(".dl-spectrum"), SPECTRA, -6, false);
  for (const [name, choices] of Object.entries(setup.references)) {
    const term = find(`[data-choices="${name}"]`), said = term.nextElementSibling;
    const words = name.replace("_", " ");
    term.textContent = words[0].toUpperCase() + words.slice(1);
    Object.entries(choices).forEach(([choice, help], i) => {
      said.querySelectorAll("b")[i].textContent = choice.replace("_", " ") + ":";
      said.querySelectorAll("span")[i].textContent = help;
    });
  }

  // ---- tables ------------------------------------------------------------------------------------
  // Rows of numbers, each over a bar about `zero` (0 left, 0.5 middle) that ends where `largest` is.
  function fill(rows, names, columns, zero, largest) {
    find(`[data-rows="${rows}"]`).replaceChildren(...names.map((name, band) => {
      const row = document.createElement("tr"), head = document.createElement("th");
      head.scope = "row";
      head.textContent = name;
      row.append(head);
      for (const { key, values } of columns) {
        const cell = document.createElement("td"), said = document.createElement("span"), bar = document.createElement("i");
        const value = values[band], reach = Math.max(-1, Math.min(1, (value || 0) / largest)) * (1 - zero);
        said.textContent = number(value);
        bar.className = `dl-part-${key}`;
        bar.style.left = `${100 * (zero + Math.min(0, reach))}%`;
        bar.style.width = `${100 * Math.abs(reach)}%`;
        cell.style.setProperty("--dl-zero", zero);
        cell.append(said, bar);
        row.append(cell);
      }
      return row;
    }));
  }
  const empty = (keys) => keys.map((key) => ({ key, values: Array(4).fill(null) }));
  const BANDS = Array(4).fill("–");

  // ---- pictures ----------------------------------------------------------------------------------
  function drawMap(canvas, { rows, columns, labels }) {
    const bytes = new Uint8Array(rows * columns * 3);
    labels.forEach((label, i) => {
      for (let c = 0; c < 3; c++) bytes[3 * i + c] = parseInt(COLOURS[label].slice(1 + 2 * c, 3 + 2 * c), 16);
    });
    drawPictures(canvas, { count: 1, height: rows, width: columns, bytes });
  }
  function draw(key, pictures) {
    const canvas = find(`[data-canvas="${key}"]`);
    if (pictures) drawPictures(canvas, unpackPictures(pictures));
    else canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
  }
  function paint(view) {
    const { settings, gain, clusters } = view, plain = (name) => String(name).replace("_", " ");
    for (const key of ["clean", "noisy", "predicted"]) draw(key, view[key]);
    for (const key in view.fields) {
      draw(key, view.fields[key]);
      find(`[data-rms="${key}"]`).textContent = `rms ${number(view.rms[key])}`;
    }
    draw("gain", gain.pictures);
    drawMap(find('[data-canvas="map"]'), clusters);
    const facts = { dit: view.dit_passes, decoder: view.decoder_passes, ms: view.milliseconds.toFixed(0) };
    for (const key in facts) find(`[data-fact="${key}"]`).textContent = facts[key];
    find('[data-note="made"]').textContent =
      `${settings.class_name}, t = ${+settings.t.toFixed(4)}, seed ${settings.seed}. Condition reference ${plain(settings.condition_reference)}, ` +
      `pixel reference ${plain(settings.pixel_reference)}, order ${plain(settings.order)}.`;
    find('[data-note="clusters"]').textContent =
      `Map: ${clusters.rows} × ${clusters.columns} tokens in ${clusters.count} clusters, coloured from the darkest region on; they hold ` +
      `${number(clusters.explained === null ? null : 100 * clusters.explained, 0)}% of the tokens’ variance, and k-means finds some in noise too. ` +
      `Neighbours share a colour ${number(clusters.regions)} of the way from chance (0) to always (1).`;
    find('[data-note="scale"]').textContent =
      `One scale for all five: grey is 0, white +${view.scale}, black −${view.scale}, in each colour; values beyond are clipped. ` +
      `rms is the root mean square. ${WHOSE[settings.order]}`;
    fill("shares", view.bands, SHARES.map((key) => ({ key, values: view.shares[key] })), 0.5, 1.5);
    const columns = [{ key: "decoder", values: gain.pixels }, { key: "dit", values: gain.condition }];
    fill("gain", view.bands, columns, 0, Math.max(1, ...columns.flatMap((column) => column.values)));
    find('[data-note="gain"]').textContent = "Relative: 1 means that 1% more contrast in that input moves the band by 1%. " +
      (gain.gain === null
        ? "This decoder draws units of several pixels, so it has no gain at a single pixel."
        : `One pixel: gain ${number(gain.gain)}, slope ${number(gain.slope)}; where the picture does not depend on the pixel it is ${number(gain.known_slope)} ` +
          `= −1/(1 − t). The picture runs from ${gain.lowest}, black, to ${gain.largest}, white.`);
    const energies = Object.fromEntries(Object.entries(view.spectra).map(([key, { energy }]) => [key, energy]));
    spectrum.paint(energies, null, energies.condition ? settings.patch_size : 0);
    root.dataset.shown = +root.dataset.shown + 1;
  }
  function show(data) {
    root.dataset.status = data.status;
    find(".dl-says").textContent = data.text || (data.status === "done" ? "Done." : "");
    if (data.view) paint(data.view);
  }
  fill("shares", BANDS, empty(SHARES), 0.5, 1.5);
  fill("gain", BANDS, empty(["decoder", "dit"]), 0, 1);
  return { show };
}
