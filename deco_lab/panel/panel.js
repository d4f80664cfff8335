// The live panel: draws the updates of deco_lab.live in a plain element.
//
//   const panel = mountPanel(element, {patchSize, bands, hasDecoder});
//   panel.show({run, status, text, frame});     // as often as updates arrive
//
// Every update is kept, the newest is painted once a screen refresh, and nothing but the contents
// of fixed boxes changes, so the page never moves. The root element says what happened: data-run,
// data-status, data-newest (step that arrived last), data-step (step on the screen), data-seen (frames
// that arrived) and data-painted (pictures drawn).
function mountPanel(root, setup) {
  "use strict";
  const HISTORY_BYTES = 64e6; // pictures kept for looking back; older ones are thinned beyond this
  const SVG = "http://www.w3.org/2000/svg";

  const CURVES = [
    { key: "predicted_spectrum", name: "predicted image", look: "dl-image" },
    { key: "velocity_spectrum", name: "velocity", look: "dl-velocity" },
    { key: "condition_spectrum", name: "condition", look: "dl-dit" },
  ];
  const PARTS = [
    { key: "dit", name: "DiT", look: "dl-dit" },
    { key: "decoder", name: "decoder", look: "dl-decoder" },
    { key: "baseline", name: "baseline", look: "dl-baseline" },
  ];
  const legend = (items) =>
    items.map((item) => `<span class="${item.look}"><i></i>${item.name}</span>`).join("");

  root.classList.add("dl");
  root.innerHTML = `
    <div class="dl-status">
      <p class="dl-says" role="status">Loading.</p>
      <div class="dl-facts">
        <span>step <b data-fact="step">–</b></span>
        <span>t <b data-fact="t">–</b></span>
        <span title="Network passes per image; a guided pair counts two">NFE <b data-fact="nfe">–</b></span>
        <span title="The sampler's time for this step, without the panels"><b data-fact="ms">–</b> ms/step</span>
      </div>
    </div>
    <div class="dl-top">
      <figure><h3>Noisy image x<sub>t</sub></h3>
        <canvas class="dl-picture" width="64" height="64" role="img" aria-label="Noisy images"></canvas></figure>
      <figure><h3>Predicted image</h3>
        <canvas class="dl-picture" width="64" height="64" role="img" aria-label="Predicted images"></canvas></figure>
      <label class="dl-scrub"><span>Look back</span>
        <input type="range" min="0" max="1" value="0" disabled aria-label="Step to look at"></label>
      <section class="dl-spectrum">
        <div class="dl-head"><h3>DCT energy of 8 × 8 blocks</h3>
          <div class="dl-modes" role="group" aria-label="Energy scale">
            <button type="button" data-mode="curve" aria-pressed="true">log(1+E) / max</button><button
              type="button" data-mode="energy" aria-pressed="false">E</button></div></div>
        <div class="dl-legend">${legend(CURVES)}</div>
        <div data-plot="spectrum"></div>
        <p class="dl-note" data-note="spectrum"></p>
      </section>
    </div>
    <section class="dl-shares">
      <h3>Who draws the velocity: shares in each band of frequencies, over t</h3>
      <p class="dl-note" data-note="shares"></p>
      <div class="dl-bands"></div>
    </section>`;
  const find = (selector) => root.querySelector(selector);
  const [noisyCanvas, predictedCanvas] = root.querySelectorAll("canvas");
  const scrub = find("input");

  // ---- drawing primitives ----------------------------------------------------------------------
  function svg(parent, name, attributes, text) {
    const node = document.createElementNS(SVG, name);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    if (text !== undefined) node.textContent = text;
    parent.appendChild(node);
    return node;
  }
  const line = (parent, look, x1, y1, x2, y2) => svg(parent, "line", { class: look, x1, y1, x2, y2 });
  function number(value, digits) {
    if (value === null || value === undefined) return "–";
    const text = Math.abs(value).toFixed(digits);
    return value < 0 && +text ? "\u2212" + text : text;
  }
  // A fraction of small numbers, such as 3/64 for numerator 3 and denominator 64.
  function fraction(numerator, denominator) {
    while (numerator && numerator % 2 === 0 && denominator % 2 === 0) {
      numerator /= 2;
      denominator /= 2;
    }
    return numerator ? `${numerator}/${denominator}` : "0";
  }

  // ---- the spectrum ----------------------------------------------------------------------------
  const zigzag = [];
  for (let d = 0; d < 15; d++)
    for (let i = 0; i <= d; i++) {
      const [u, v] = d % 2 ? [i, d - i] : [d - i, i];
      if (u < 8 && v < 8) zigzag.push([u, v]);
    }
  const spectrum = (() => {
    const W = 400, H = 246, left = 30, right = 394, top = 8, bottom = 190;
    const LOW = -4, HIGH = 4; // decades of raw energy
    const plot = svg(find('[data-plot="spectrum"]'), "svg", { viewBox: `0 0 ${W} ${H}`, role: "img",
      "aria-label": "DCT energy of predicted image, velocity and condition against zigzag index" });
    const X = (k) => left + (k / 63) * (right - left);
    const Y = (share) => bottom - share * (bottom - top);
    const ticks = svg(plot, "g", {});
    // Where the zigzag starts an even diagonal: purely vertical waves of n / 16 cycles per block pixel.
    for (const [k, n] of [[0, 0], [3, 2], [10, 4], [21, 6]]) {
      const under = { x: X(k), "text-anchor": "middle" };
      line(plot, "dl-grid", X(k), top, X(k), bottom + 4);
      svg(plot, "text", { ...under, y: bottom + 16 }, k);
      svg(plot, "text", { ...under, y: bottom + 34 }, fraction(n, 16));
      if (setup.hasDecoder)
        svg(plot, "text", { ...under, y: bottom + 52, class: "dl-dit" }, fraction(n, 16 * setup.patchSize));
    }
    line(plot, "dl-axis", left, bottom, right, bottom);
    const end = { x: right, "text-anchor": "end" };
    svg(plot, "text", { ...end, y: bottom + 16 }, "zigzag index, to 63");
    svg(plot, "text", { ...end, y: bottom + 34 }, "pixels, to 1/2 cycles/pixel");
    if (setup.hasDecoder) svg(plot, "text", { ...end, y: bottom + 52, class: "dl-dit" },
      `condition, to 1/${2 * setup.patchSize} cycles/pixel`);
    const lines = CURVES.map((curve) => svg(plot, "polyline", { class: curve.look }));
    const cursor = line(plot, "dl-cursor", 0, top, 0, bottom);
    cursor.style.visibility = "hidden";

    let mode = "curve", hovered = null, frame = null;
    const height = (value) =>
      mode === "curve" ? value : (Math.log10(Math.max(value, 1e-30)) - LOW) / (HIGH - LOW);
    function axis() {
      ticks.replaceChildren();
      const steps = mode === "curve" ? [0, 0.5, 1] : [0, 0.25, 0.5, 0.75, 1];
      for (const s of steps) {
        line(ticks, "dl-grid", left, Y(s), right, Y(s));
        const label = mode === "curve" ? s : `1e${LOW + s * (HIGH - LOW)}`;
        svg(ticks, "text", { x: left - 6, y: Y(s) + 3.5, "text-anchor": "end" }, label);
      }
    }
    function read() {
      const note = find('[data-note="spectrum"]');
      if (hovered === null) {
        const tokens =
          `One token a patch of ${setup.patchSize} \u00d7 ${setup.patchSize}: the condition\u2019s frequencies end at ` +
          `1/${2 * setup.patchSize} cycles/pixel, the pixels\u2019 at 1/2. `;
        note.textContent = (setup.hasDecoder ? tokens : "") +
          "Ticks mark purely vertical waves; point at the plot for values.";
        return;
      }
      const [u, v] = zigzag[hovered], f = Math.hypot(u, v) / 16;
      const values = CURVES.flatMap((curve) => {
        const found = frame && frame[curve.key];
        if (!found) return [];
        const value = found[mode][hovered];
        return [`${curve.name} ${mode === "curve" || value === null ? number(value, 3) : value.toExponential(2)}`];
      });
      note.textContent =
        `Index ${hovered} (vertical ${u}, horizontal ${v}): ${f.toFixed(3)} cycles/pixel in pixels` +
        (setup.hasDecoder ? `, ${(f / setup.patchSize).toFixed(4)} in the condition` : "") + `. ${values.join(", ")}`;
    }
    function paint(next) {
      frame = next;
      lines.forEach((node, i) => {
        const found = frame && frame[CURVES[i].key];
        const points = found
          ? found[mode].map((value, k) => `${X(k).toFixed(1)},${Y(Math.min(1, Math.max(0, height(value)))).toFixed(1)}`)
          : [];
        node.setAttribute("points", points.join(" "));
      });
      read();
    }
    plot.addEventListener("pointermove", (event) => {
      const box = plot.getBoundingClientRect();
      const k = Math.round((((event.clientX - box.left) / box.width) * W - left) / (right - left) * 63);
      hovered = Math.min(63, Math.max(0, k));
      cursor.setAttribute("x1", X(hovered));
      cursor.setAttribute("x2", X(hovered));
      cursor.style.visibility = "visible";
      read();
    });
    plot.addEventListener("pointerleave", () => {
      hovered = null;
      cursor.style.visibility = "hidden";
      read();
    });
    root.querySelectorAll("[data-mode]").forEach((button) =>
      button.addEventListener("click", () => {
        mode = button.dataset.mode;
        root.querySelectorAll("[data-mode]").forEach((b) => b.setAttribute("aria-pressed", b === button));
        axis();
        paint(frame);
      }));
    axis();
    read();
    return { paint };
  })();

  // ---- the shares ------------------------------------------------------------------------------
  const LOW = -2.5, HIGH = 2.5; // of the share axis; lines leave the plot there, numbers go on
  const bands = setup.bands.map((name, index) => {
    const W = 230, H = 140, left = 22, right = 226, top = 6, bottom = 120;
    const box = document.createElement("div");
    box.innerHTML = `<h4>${name}</h4><div class="dl-values">${
      PARTS.map((part) => `<span class="${part.look}"><i></i>${part.name}<b>–</b></span>`).join("")}</div>`;
    find(".dl-bands").appendChild(box);
    const values = box.querySelectorAll("b");
    const plot = svg(box, "svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `Shares of the band ${name} over t` });
    const X = (t) => left + t * (right - left);
    const Y = (share) => bottom - ((share - LOW) / (HIGH - LOW)) * (bottom - top);
    for (const share of [-2, -1, 0, 1, 2]) {
      line(plot, share ? "dl-grid" : "dl-axis", left, Y(share), right, Y(share));
      svg(plot, "text", { x: left - 6, y: Y(share) + 3.5, "text-anchor": "end" }, share);
    }
    line(plot, "dl-grid", left, top, left, bottom);
    for (const t of [0, 0.5, 1])
      svg(plot, "text", { x: X(t), y: bottom + 16, "text-anchor": t === 1 ? "end" : "middle" }, t === 0.5 ? "t = 0.5" : t);
    const cursor = line(plot, "dl-cursor", left, top, left, bottom);
    cursor.style.visibility = "hidden";
    const inside = svg(plot, "svg", { x: left, y: top, width: right - left + 2, height: bottom - top,
      viewBox: `${left} ${top} ${right - left + 2} ${bottom - top}`, class: "dl-inside" });
    const lines = PARTS.map((part) => svg(inside, "polyline", { class: part.look }));
    let points = PARTS.map(() => "");
    return {
      clear: () => { points = PARTS.map(() => ""); },
      add(frame) {
        if (!frame.shares) return;
        PARTS.forEach((part, i) => {
          const share = frame.shares[part.key][index];
          if (share !== null) points[i] += `${X(frame.t_start).toFixed(1)},${Y(share).toFixed(1)} `;
        });
      },
      paint(frame) {
        lines.forEach((node, i) => node.setAttribute("points", points[i]));
        PARTS.forEach((part, i) => {
          values[i].textContent = number(frame.shares ? frame.shares[part.key][index] : null, 2);
        });
        cursor.style.visibility = frame.shares ? "visible" : "hidden";
        if (frame.shares) for (const end of ["x1", "x2"]) cursor.setAttribute(end, X(frame.t_start));
      },
    };
  });
  find('[data-note="shares"]').textContent = setup.hasDecoder
    ? "The class’s velocity before guidance, split by Shapley value. DiT: what its condition brings; decoder: what " +
      "the noisy pixels bring past the DiT; baseline: what is there without either. In each band (cycles/pixel) the " +
      `shares sum to 1; below 0 works against the velocity. First ${setup.decomposed} images.`
    : "This model has no pixel decoder: there is no condition to show and nothing to divide.";
  if (!setup.hasDecoder) {
    find(".dl-shares").classList.add("dl-absent");
    find(".dl-spectrum .dl-legend .dl-dit").innerHTML = "<i></i>condition: no decoder";
  }

  // ---- pictures --------------------------------------------------------------------------------
  async function decode(uri) {
    const image = new Image();
    image.src = uri;
    await image.decode();
    return image;
  }
  function tile(canvas, image, frame) {
    const rows = Math.ceil(frame.num_images / frame.columns);
    const w = image.naturalWidth / frame.columns, h = image.naturalHeight / rows;
    const gap = frame.num_images > 1 ? Math.max(2, Math.round(w / 32)) : 0;
    const width = frame.columns * (w + gap) - gap, height = rows * (h + gap) - gap;
    const side = Math.max(width, height);
    if (canvas.width !== side) canvas.width = canvas.height = side; // assigning clears: only when new
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, side, side);
    const dx = Math.floor((side - width) / 2), dy = Math.floor((side - height) / 2);
    for (let i = 0; i < frame.num_images; i++) {
      const column = i % frame.columns, row = Math.floor(i / frame.columns);
      context.drawImage(image, column * w, row * h, w, h, dx + column * (w + gap), dy + row * (h + gap), w, h);
    }
  }
  // One decoding at a time, then the newest: were each given up for the next, none might ever end.
  let painted = 0, seen = 0, wanted = null, decoding = false;
  async function paintPictures(frame) {
    wanted = frame;
    if (decoding) return;
    decoding = true;
    try {
      while (wanted) {
        const next = wanted;
        wanted = null;
        const [noisy, predicted] = await Promise.all(
          [next.noisy, next.predicted].map((uri) => (uri ? decode(uri) : null)));
        tile(noisyCanvas, noisy, next);
        if (predicted) tile(predictedCanvas, predicted, next);
        else predictedCanvas.getContext("2d").clearRect(0, 0, predictedCanvas.width, predictedCanvas.height);
        root.dataset.step = next.index;
        root.dataset.painted = ++painted;
      }
    } finally {
      decoding = false;
    }
  }

  // ---- updates in, paints out ------------------------------------------------------------------
  let run = 0, historyRun = 0, history = [], bytes = 0; // history[i] is the frame of step i
  let following = true, shown = null, scheduled = false;

  function keep(frame) {
    if (history[frame.index] === undefined) bands.forEach((band) => band.add(frame));
    history[frame.index] = frame;
    bytes += frame.noisy.length + (frame.predicted || "").length;
    if (bytes < HISTORY_BYTES) return;
    bytes = 0;
    const kept = [];
    history.forEach((old, i) => {
      if (i % 2 && old !== frame) return;
      kept[i] = old;
      bytes += old.noisy.length + (old.predicted || "").length;
    });
    history = kept;
  }
  function schedule() {
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(() => {
      scheduled = false;
      paint();
    });
  }
  function paint() {
    if (!shown) return;
    const frame = shown;
    const facts = {
      step: `${frame.index}/${frame.num_steps}`, t: frame.t.toFixed(3), nfe: frame.nfe,
      ms: frame.index ? frame.sampling_ms.toFixed(0) : "–",
    };
    for (const key in facts) find(`[data-fact="${key}"]`).textContent = facts[key];
    scrub.disabled = false;
    scrub.max = frame.num_steps;
    scrub.value = frame.index;
    spectrum.paint(frame);
    bands.forEach((band) => band.paint(frame));
    paintPictures(frame).catch((error) => console.error("deco_lab panel:", error));
  }
  scrub.addEventListener("input", () => {
    let index = +scrub.value;
    while (index > 0 && !history[index]) index--;
    if (!history[index]) return;
    following = index === history.length - 1;
    shown = history[index];
    schedule();
  });

  function show(update) {
    if (update.run < run) return; // a superseded run's last words
    run = update.run;
    root.dataset.run = run;
    root.dataset.status = update.status;
    const says = find(".dl-says");
    if (says.textContent !== update.text) says.textContent = update.text;
    const frame = update.frame;
    if (!frame) return;
    if (historyRun !== run) {
      historyRun = run;
      history = [];
      bytes = 0;
      following = true;
      bands.forEach((band) => band.clear());
    }
    if (frame.index !== history.length - 1) root.dataset.seen = ++seen;
    root.dataset.newest = frame.index;
    keep(frame);
    if (following) shown = frame;
    schedule();
  }
  return { show };
}
