// The Decompose tab's panel: draws a deco_lab.workbench.parts.PartsView.
//
//   setup: {choices}, deco_lab.workbench.parts.CHOICES
//   show({status, text, view}): view may be absent, the one before then stays
function mountParts(root, setup) {
  "use strict";
  const { number, percent, announce, unpackPictures, drawPictures } = DecoLab;
  const NAMES = {
    whole: "predicted image", baseline: "baseline", condition: "condition", pixels: "pixels",
    interaction: "interaction", tokens: "condition’s tokens",
  };
  const SPECTRA = ["whole", "condition", "pixels", "baseline", "interaction", "tokens"]
    .map((key) => ({ key, name: NAMES[key], look: `dl-part-${key}` }));
  const SHARES = ["condition", "pixels", "interaction", "baseline"];
  // One for each cluster: eight that are told apart with ease, and a paler one of each.
  const COLOURS = [
    "#1f4e79", "#d1570f", "#2f8f4e", "#b3383a", "#7d5ba6", "#8c6b4f", "#d678b0", "#a8a032",
    "#2aa5b5", "#9ec3e6", "#f5b97a", "#98d08e", "#f29a98", "#c4b0d9", "#cdb8a8", "#e6dc8a",
  ];
  const picture = (key, title, sign = "") => `<figure>${sign}
      <figcaption>${title}</figcaption>
      <canvas class="dl-picture" data-canvas="${key}" width="1" height="1" role="img" aria-label="${title.replace(/<.*?>/g, "")}"></canvas>
      <p class="dl-rms" data-rms="${key}"></p></figure>`;
  const sign = (text) => `<span class="dl-sign" aria-hidden="true">${text}</span>`;
  root.classList.add("dl", "dl-parts");
  root.dataset.status = "idle";
  root.dataset.shown = 0;
  root.innerHTML = `
    <div class="dl-status"><p class="dl-says" role="status">Choose an image, a time t and a seed, then “Take apart”.</p>
      <button type="button" class="dl-button" data-do="inside" title="The blocks of the DiT, below">Look inside by block</button>
      <div class="dl-facts"><span>DiT passes <b data-fact="dit">–</b></span><span>decoder passes <b data-fact="decoder">–</b></span><span>ms <b data-fact="ms">–</b></span></div></div>
    <p class="dl-sentence" data-note="says"></p>
    <section>
      <div class="dl-sum">${picture("noisy", "Noisy image")}${picture("whole", "<span>Predicted image</span>", sign("→"))}${
        picture("condition", "Condition", sign("="))}${picture("pixels", "Pixels", sign("+"))}${
        picture("interaction", "Interaction", sign("+"))}${picture("baseline", "Baseline", sign("+"))}</div>
      <p class="dl-note" data-note="made"></p></section>
    <section>
      <h2>Share of the <span data-word="whole">predicted image</span> in each band</h2>
      <table class="dl-table"><thead><tr><th scope="col">cycles/<wbr>pixel</th>${
        SHARES.map((key) => `<th scope="col" class="dl-part-${key}">${NAMES[key]}</th>`).join("")}</tr></thead><tbody data-rows="shares"></tbody></table>
      <p class="dl-note" data-note="shares"></p></section>
    <div class="dl-pair">
      <section class="dl-spectrum"></section>
      <section>
        <div class="dl-quad">${picture("clean", "Image")}${picture("predicted", "Predicted image")}
          ${picture("map", "k-means map")}${picture("gain", "Gain")}</div>
        <p class="dl-note" data-note="clusters"></p>
        <h2>What moves the predicted image: Jacobian gain</h2>
        <table class="dl-table"><thead><tr><th scope="col">cycles/<wbr>pixel</th><th scope="col" class="dl-part-pixels">noisy pixels</th><th scope="col" class="dl-part-condition">condition</th></tr></thead><tbody data-rows="gain"></tbody></table>
        <p class="dl-note" data-note="gain"></p>
      </section>
    </div>
    <details class="dl-help"><summary>What the words mean</summary><dl>
      <dt>t</dt><dd>Time of sampling: 0 is noise, 1 the image.</dd>
      <dt>Noisy image</dt><dd>x<sub>t</sub> = t · image + (1 − t) · noise, what the model is given.</dd>
      <dt>Step</dt><dd>Of the last run: its image as it stood where that step began, with its own t and class; left empty, where the run stopped. On the Sample tab “Take this step apart” chooses the one that is shown.</dd>
      <dt>Velocity</dt><dd>What the model answers, its guess of image − noise, for this class and without guidance.</dd>
      <dt>Predicted image</dt><dd>Where that velocity leads at once: x<sub>t</sub> + (1 − t) · velocity.</dd>
      <dt>Condition</dt><dd>What the DiT hands the pixel decoder: one token, a row of numbers, for each patch, so its frequencies end at half a cycle a patch.</dd>
      <dt>Pixels</dt><dd>The noisy image itself, which reaches the decoder and the prediction past the DiT. As t nears 1 the picture already stands in it: the pixels’ share then nears 1, for any model.</dd>
      <dt>Reference</dt><dd>What stands for “no condition” and “no pixels”: those of other pictures of the class at the same t, several one after the other, of which the mean is shown. A constant asks another question.</dd>
      <dt>Baseline</dt><dd>What the decoder draws of both references.</dd>
      <dt>Main effect</dt><dd>What one input adds to the baseline by itself.</dd>
      <dt>Interaction</dt><dd>What both inputs do together and neither does alone.</dd>
      <dt>Shapley value</dt><dd>An input’s main effect and half of the interaction.</dd>
      <dt>Share</dt><dd>A part’s inner product with the predicted image in a band, over the image’s own energy there. Parts that cancel have none: their energies are then more than twice the image’s. The mean colours are a band of their own.</dd>
      <dt>k-means map</dt><dd>Patches of one colour have similar tokens; the number of colours is chosen, not found.</dd>
      <dt>DCT energy</dt><dd>Mean squared coefficient of the cosine transform of 8 × 8 blocks; the paper draws log(1 + E) over its maximum.</dd>
      <dt>Jacobian gain</dt><dd>How far the predicted image moves when an input moves a little: 0.5 means that 1% more contrast in it moves the band by 0.5% of itself.</dd>
      <dt>Slope</dt><dd>How a predicted pixel moves with that noisy pixel, with its sign: 0 where the picture does not depend on the pixel, be it known or ignored.</dd>
      ${Object.entries(setup.choices).map(([name, choices]) => `<dt data-choices="${name}"></dt><dd>${
        Object.keys(choices).map(() => "<b></b> <span></span> ").join("")}</dd>`).join("")}
    </dl></details>`;
  const find = (selector) => root.querySelector(selector);
  const spectrum = mountSpectrum(find(".dl-spectrum"), SPECTRA, -6, false);
  for (const [name, choices] of Object.entries(setup.choices)) {
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
  function fill(rows, names, columns, zero, largest, say = number) {
    find(`[data-rows="${rows}"]`).replaceChildren(...names.map((name, band) => {
      const row = document.createElement("tr"), head = document.createElement("th");
      head.scope = "row";
      head.textContent = name;
      row.append(head);
      for (const { key, values } of columns) {
        const cell = document.createElement("td"), said = document.createElement("span"), bar = document.createElement("i");
        const value = values[band], reach = Math.max(-1, Math.min(1, (value || 0) / largest)) * (1 - zero);
        said.textContent = say(value);
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
  const empty = (keys) => keys.map((key) => ({ key, values: Array(5).fill(null) }));
  const BANDS = Array(5).fill("–");

  // ---- pictures ----------------------------------------------------------------------------------
  function drawMap(canvas, { rows, columns, labels }) {
    const bytes = new Uint8Array(rows * columns * 3);
    labels.forEach((label, i) => {
      for (let c = 0; c < 3; c++) bytes[3 * i + c] = parseInt(COLOURS[label].slice(1 + 2 * c, 3 + 2 * c), 16);
    });
    drawPictures(canvas, { count: 1, height: rows, width: columns, bytes });
  }
  function draw(key, pictures) {
    drawPictures(find(`[data-canvas="${key}"]`), pictures && unpackPictures(pictures));
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
    const whole = settings.whole === "velocity" ? "velocity" : "predicted image";
    find('[data-note="says"]').textContent = view.says;
    find('[data-word="whole"]').textContent = whole;
    find(".dl-sum figcaption span").textContent = whole[0].toUpperCase() + whole.slice(1);
    const stands = (reference) => (reference === "others" ? settings.others : plain(reference));
    const references = [settings.condition_reference, settings.pixel_reference].map(stands);
    const standing = references[0] === references[1]
      ? `In place of either input: that of ${references[0]}, at the same t.`
      : `In place of the condition: ${references[0]}; of the pixels: ${references[1]}.`;
    find('[data-note="made"]').textContent =
      `${settings.class_name}, t = ${+settings.t.toFixed(4)}, seed ${settings.seed}. ${standing} ` +
      `One scale for all but the noisy image: grey is 0, white +${view.scale}, black −${view.scale}; rms is the root mean square.`;
    find('[data-note="shares"]').textContent = settings.effects === "shapley"
      ? "Shapley values: condition, pixels and baseline sum to 100%; half of the interaction is within each of the first two."
      : "Main effects: all four sum to 100%; below 0 a part works against the whole. As t nears 1 the picture already stands in the noisy pixels, whatever the model.";
    find('[data-note="clusters"]').textContent =
      `Map of the condition: ${clusters.rows} × ${clusters.columns} tokens in ${clusters.count} clusters, coloured from the darkest region on; they hold ` +
      `${percent(clusters.explained)} of the tokens’ variance, and k-means finds some in noise too. ` +
      `Neighbours share a colour ${number(clusters.regions)} of the way from chance (0) to always (1).`;
    fill("shares", view.bands, SHARES.map((key) => ({ key, values: view.shares[key] })), 0.25, 1, percent);
    const columns = [{ key: "pixels", values: gain.pixels }, { key: "condition", values: gain.condition }];
    fill("gain", view.bands, columns, 0, Math.max(1, ...columns.flatMap((column) => column.values)));
    find('[data-note="gain"]').textContent = "Relative: 1 means that 1% more contrast in that input moves the band by 1%. " +
      (gain.gain === null
        ? "This decoder draws units of several pixels, so it has no gain at a single pixel."
        : `One pixel: gain ${number(gain.gain)}, slope ${number(gain.slope)}, which is 0 where the picture does not depend on it. ` +
          `The map runs from ${gain.lowest}, black, to ${gain.largest}, white.`);
    spectrum.paint(view.spectra, null, view.spectra.tokens ? settings.patch_size : 0);
    root.dataset.shown = +root.dataset.shown + 1;
  }
  function show(data) {
    announce(root, { ...data, text: data.text || data.view?.settings.of });
    if (data.view) paint((root.view = data.view));
  }
  fill("shares", BANDS, empty(SHARES), 0.25, 1);
  fill("gain", BANDS, empty(["pixels", "condition"]), 0, 1);
  return { show };
}
