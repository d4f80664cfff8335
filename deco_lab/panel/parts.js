// The Decompose tab's panel: draws a deco_lab.workbench.parts.PartsView.
//
//   setup: {references}, deco_lab.workbench.parts.REFERENCES
//   show({status, text, view}): view may be absent, the one before then stays
function mountParts(root, setup) {
  "use strict";
  const { svg, line, number, fraction, legend, zigzag, unpackPictures, drawPictures } = DecoLab;
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
      <section>
        <div class="dl-head"><h2>DCT energy of 8 × 8 blocks</h2>
          <div class="dl-modes" role="group" aria-label="Energy scale"><button type="button" data-mode="curve" aria-pressed="true">log(1+E) / max</button><button
            type="button" data-mode="energy" aria-pressed="false">E</button></div></div>
        <div class="dl-legend">${legend(SPECTRA)}</div>
        <div data-plot="spectra"></div>
        <p class="dl-note" data-note="spectra"></p>
      </section>
      <section>
        <h2>Share of the velocity in each band</h2>
        <table class="dl-table"><thead><tr><th scope="col">cycles/pixel</th>${
          SHARES.map((key) => `<th scope="col" class="dl-part-${key}">${NAMES[key]}</th>`).join("")}</tr></thead><tbody data-rows="shares"></tbody></table>
        <p class="dl-note">Baseline, DiT and decoder sum to 1; bars run from −1.5 to 1.5 about 0. Below 0 a part works against the velocity, and others then exceed 1. The interaction is within the parts.</p>
        <div class="dl-jacobian">
          <div><h2>What moves the velocity: Jacobian gain</h2>
            <table class="dl-table"><thead><tr><th scope="col">cycles/pixel</th><th scope="col" class="dl-part-decoder">noisy pixels</th><th scope="col" class="dl-part-dit">condition</th></tr></thead><tbody data-rows="gain"></tbody></table></div>
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
      <dt>Condition</dt><dd>What the DiT hands the pixel decoder: one token, a row of numbers, for each patch.</dd>
      <dt>k-means map</dt><dd>Patches of one colour have similar tokens; the number of colours is chosen, not found.</dd>
      <dt>Reference</dt><dd>What stands for “no condition” and “no pixels”; each choice asks another question.</dd>
      <dt>Baseline</dt><dd>What the decoder draws of both references.</dd>
      <dt>DiT</dt><dd>What the condition adds to that.</dd>
      <dt>Decoder</dt><dd>What the noisy pixels add past the DiT, by the decoder’s direct path.</dd>
      <dt>Interaction</dt><dd>What both inputs do together and neither does alone; the order says whose it counts as.</dd>
      <dt>DCT energy</dt><dd>Mean squared coefficient of the cosine transform of 8 × 8 blocks; the paper draws log(1 + E) over its maximum.</dd>
      <dt>Share</dt><dd>A part’s inner product with the velocity in a band, over the velocity’s own energy there.</dd>
      <dt>Jacobian gain</dt><dd>How far the velocity moves when an input moves a little: 0.5 means that 1% more contrast in it moves the band by 0.5% of itself.</dd>
      <dt>Slope</dt><dd>How a pixel’s velocity moves with that pixel, with its sign: −1 / (1 − t) where the decoder knows the image and reads the noise off.</dd>
      ${Object.entries(setup.references).map(([name, choices]) => `<dt data-choices="${name}"></dt><dd>${
        Object.keys(choices).map(() => "<b></b> <span></span> ").join("")}</dd>`).join("")}
    </dl></details>`;
  const find = (selector) => root.querySelector(selector);
  for (const [name, choices] of Object.entries(setup.references)) {
    const term = find(`[data-choices="${name}"]`), said = term.nextElementSibling;
    const words = name.replace("_", " ");
    term.textContent = words[0].toUpperCase() + words.slice(1);
    Object.entries(choices).forEach(([choice, help], i) => {
      said.querySelectorAll("b")[i].textContent = choice.replace("_", " ") + ":";
      said.querySelectorAll("span")[i].textContent = help;
    });
  }

  // ---- spectra -----------------------------------------------------------------------------------
  const W = 400, H = 262, left = 34, right = 394, top = 8, bottom = 206;
  const SCALES = {
    curve: { ticks: [[0, "0"], [0.5, "0.5"], [1, "1"]], height: (v) => v },
    energy: { // decades from -6 to 4
      ticks: [-6, -4, -2, 0, 2, 4].map((d) => [(d + 6) / 10, d ? `1e${number(d, 0)}` : "1"]),
      height: (v) => (Math.log10(Math.max(v, 1e-30)) + 6) / 10,
    },
  };
  const X = (k) => left + (k / 63) * (right - left);
  const Y = (share) => bottom - Math.min(1, Math.max(0, share)) * (bottom - top);
  const plot = svg(find('[data-plot="spectra"]'), "svg", {
    viewBox: `0 0 ${W} ${H}`, role: "img", tabindex: 0,
    "aria-label": "DCT energy of velocity, parts and condition against zigzag index; arrow keys read values",
  });
  const axis = svg(plot, "g", {}), frequencies = svg(plot, "g", {});
  line(plot, "dl-axis", left, bottom, right, bottom);
  const lines = SPECTRA.map((curve) => svg(plot, "polyline", { class: curve.look }));
  const cursor = line(plot, "dl-cursor", 0, top, 0, bottom);
  cursor.style.visibility = "hidden";
  let mode = "curve", hovered = null, view = null;

  function drawSpectra() {
    axis.replaceChildren();
    for (const [at, text] of SCALES[mode].ticks) {
      line(axis, "dl-grid", left, Y(at), right, Y(at));
      svg(axis, "text", { x: left - 5, y: Y(at) + 3.5, "text-anchor": "end" }, text);
    }
    // Ticks where the zigzag starts an even diagonal: purely vertical waves of n / 16 cycles per block pixel.
    frequencies.replaceChildren();
    const patch = view && view.spectra.condition ? view.settings.patch_size : 0;
    for (const [k, n] of [[0, 0], [3, 2], [10, 4], [21, 6]]) {
      const under = { x: X(k), "text-anchor": "middle" };
      line(frequencies, "dl-grid", X(k), top, X(k), bottom + 4);
      svg(frequencies, "text", { ...under, y: bottom + 16 }, k);
      svg(frequencies, "text", { ...under, y: bottom + 34 }, fraction(n, 16));
      if (patch) svg(frequencies, "text", { ...under, y: bottom + 52, class: "dl-part-condition" }, fraction(n, 16 * patch));
    }
    const end = { x: right, "text-anchor": "end" };
    svg(frequencies, "text", { ...end, y: bottom + 16 }, "zigzag index, to 63");
    svg(frequencies, "text", { ...end, y: bottom + 34 }, "pixels, to 1/2 cycles/pixel");
    if (patch)
      svg(frequencies, "text", { ...end, y: bottom + 52, class: "dl-part-condition" }, `condition, to 1/${2 * patch} cycles/pixel`);
    SPECTRA.forEach(({ key }, i) => {
      const spectrum = view && view.spectra[key];
      lines[i].setAttribute("points", spectrum ? spectrum[mode].map((value, k) =>
        `${X(k).toFixed(1)},${Y(value === null ? 0 : SCALES[mode].height(value)).toFixed(1)}`).join(" ") : "");
    });
    read();
  }
  function read() {
    const note = find('[data-note="spectra"]');
    if (hovered === null || !view) {
      note.textContent = (mode === "curve"
        ? "Each curve is divided by its own maximum, so heights do not compare between curves; E does. "
        : "Energies compare between curves; white noise of variance 1 has 1 everywhere. ") +
        "Ticks mark purely vertical waves; point at the plot, or use the arrow keys, for values.";
      return;
    }
    const [u, v] = zigzag[hovered], f = Math.hypot(u, v) / 16;
    const said = SPECTRA.filter(({ key }) => view.spectra[key]).map(({ key, name }) => {
      const value = view.spectra[key][mode][hovered];
      return `${name} ${value !== null && mode === "energy" && value < 0.1 ? value.toExponential(1).replace("-", "\u2212") : number(value)}`;
    });
    note.textContent = `Index ${hovered} (vertical ${u}, horizontal ${v}): ${f.toFixed(3)} cycles/pixel in pixels` +
      (view.spectra.condition ? `, ${(f / view.settings.patch_size).toFixed(4)} in the condition` : "") + `. ${said.join(", ")}`;
  }
  function point(k) {
    hovered = k === null ? null : Math.min(63, Math.max(0, k));
    cursor.style.visibility = hovered === null ? "hidden" : "visible";
    if (hovered !== null) for (const side of ["x1", "x2"]) cursor.setAttribute(side, X(hovered));
    read();
  }
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    point(Math.round((((event.clientX - box.left) / box.width) * W - left) / (right - left) * 63));
  });
  plot.addEventListener("pointerleave", () => point(null));
  plot.addEventListener("blur", () => point(null));
  plot.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    point(hovered === null ? 0 : hovered + by);
    event.preventDefault();
  });
  root.querySelectorAll("[data-mode]").forEach((button) => button.addEventListener("click", () => {
    mode = button.dataset.mode;
    root.querySelectorAll("[data-mode]").forEach((b) => b.setAttribute("aria-pressed", b === button));
    drawSpectra();
  }));

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
  function paint() {
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
      `${settings.class_name}, t = ${settings.t}, seed ${settings.seed}. Condition reference ${plain(settings.condition_reference)}, ` +
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
        : `One pixel: gain ${number(gain.gain)}, slope ${number(gain.slope)}; a decoder that knows the image has ${number(gain.known_slope)} ` +
          `= −1/(1 − t). The picture runs from ${gain.lowest}, black, to ${gain.largest}, white.`);
    drawSpectra();
    root.dataset.shown = +root.dataset.shown + 1;
  }
  function show(data) {
    root.dataset.status = data.status;
    find(".dl-says").textContent = data.text || (data.status === "done" ? "Done." : "");
    if (!data.view) return;
    view = data.view;
    paint();
  }
  fill("shares", BANDS, empty(SHARES), 0.5, 1.5);
  fill("gain", BANDS, empty(["decoder", "dit"]), 0, 1);
  drawSpectra();
  return { show };
}
