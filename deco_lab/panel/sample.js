// The Sample tab's panel: draws the updates of deco_lab.workbench.watching in a plain element.
//
//   const panel = mountSample(element, {bands, velocityRange, presets});    // presets: name to sentence
//   panel.show({run, status, text, frames, begin});     // as often as updates arrive
//
// Every frame is kept, the newest is painted once a screen refresh, and nothing but the contents of
// fixed boxes changes, so the page never moves. The root element says what happened: data-run,
// data-status, data-newest (step that arrived last), data-shown-run and data-step (what is on the
// screen), data-seen (frames that arrived) and data-painted (screens drawn).
function mountSample(root, setup) {
  "use strict";
  const { svg, line, percent, legend, unpackPictures, drawPictures, svgButton } = DecoLab;
  const HISTORY_BYTES = 96e6; // pictures kept for looking back; older ones are thinned beyond this

  const SPECTRA = [
    { key: "predicted_energy", name: "predicted image", look: "dl-image" },
    { key: "velocity_energy", name: "velocity", look: "dl-velocity" },
    { key: "condition_energy", name: "condition", look: "dl-condition" },
  ];
  const PARTS = [
    { name: "baseline", look: "dl-baseline" },
    { name: "condition", look: "dl-condition" },
    { name: "pixels", look: "dl-pixels" },
    { name: "interaction", look: "dl-interaction" },
  ];
  const BANDS = setup.bands.map((name, i) => ({ name, look: `dl-band-${i}` }));
  const canvas = (key, label) =>
    `<canvas class="dl-picture" data-canvas="${key}" width="64" height="64" role="img" aria-label="${label}"></canvas>`;

  root.classList.add("dl");
  root.innerHTML = `
    <div class="dl-status">
      <p class="dl-says" role="status">Loading.</p>
      <div class="dl-facts">
        <span>step <b data-fact="step">–</b></span>
        <span>t <b data-fact="t">–</b></span>
        <span>NFE <b data-fact="nfe">–</b></span>
        <span><b data-fact="ms">–</b> ms/step</span>
      </div>
    </div>
    <div class="dl-answer"></div>
    <div class="dl-scrub">
      <label><span>Look back</span>
        <input type="range" min="0" max="1" value="0" disabled aria-label="Step to look at"></label>
      <button type="button" class="dl-button" data-do="live" title="To the newest step, and on with the run">Live</button>
      <button type="button" class="dl-button" data-do="apart" disabled title="On the Decompose tab, once the run has ended">Take this step apart</button>
      <button type="button" class="dl-button" data-do="resume" disabled title="The next run starts from this step’s state, with whatever is changed; once the run has ended">Go on from here</button>
      <button type="button" class="dl-button" data-do="pin" disabled aria-pressed="false">Pin this run</button>
    </div>
    <div class="dl-pictures dl-pinned" hidden>
      <figure><h2>Pinned: noisy image</h2>${canvas("pinned-noisy", "Noisy images of the pinned run")}</figure>
      <figure><h2>Pinned: predicted image</h2>${canvas("pinned-predicted", "Predicted images of the pinned run")}</figure>
      <figure><h2>Difference of predictions</h2>${canvas("difference", "New minus pinned predicted images, grey is zero")}</figure>
      <p class="dl-note" data-note="pinned"></p>
    </div>
    <h2 class="dl-details">Details</h2>
    <div class="dl-pictures dl-two">
      <figure><h2>Noisy images x<sub>t</sub></h2>${canvas("noisy", "Noisy images")}</figure>
      <figure><h2>Velocities</h2>${canvas("velocity", "Velocities, grey is zero")}</figure>
    </div>
    <div class="dl-pair">
      <section class="dl-spectrum"></section>
      <section class="dl-heat" data-figure>
        <div class="dl-head"><h2>Power over t and frequency</h2>${svgButton("power")}
          <div class="dl-modes" role="group" aria-label="Whose power">${heatmapSignals.map((signal, i) =>
            `<button type="button" data-signal="${signal.key}" aria-pressed="${i === 0}">${signal.name}</button>`).join("")}</div></div>
        <div data-plot="heatmap"></div>
        <p class="dl-note" data-note="heatmap"></p>
      </section>
    </div>
    <section class="dl-over-t">
      <div class="dl-over-t-rows">
        <div class="dl-share-plots" data-figure>
          <div class="dl-head"><h2>Who draws the predicted image, band by band</h2>${svgButton("shares")}</div>
          <p class="dl-note" data-note="shares"></p>
          <div class="dl-legend">${legend(PARTS)}</div>
          <div class="dl-bands"></div>
        </div>
        <div class="dl-guidance" data-figure>
          <div class="dl-head"><h2>What guidance changes</h2>${svgButton("guidance")}</div>
          <p class="dl-note">Energy of guided − class velocity over the class velocity’s, in each band (cycles/pixel): at 1 guidance
            moves the band by as much as the class has there.</p>
          <div class="dl-legend">${legend(BANDS)}</div>
          <div data-plot="guidance"></div>
        </div>
      </div>
    </section>
    <details class="dl-help"><summary>What the words mean, and keys</summary><dl>
      <dt>t</dt><dd>Time of sampling: 0 is noise, 1 the image.</dd>
      <dt>Noisy image</dt><dd>The state x<sub>t</sub> = t · image + (1 − t) · noise that sampling has reached.</dd>
      <dt>Velocity</dt><dd>What the model predicts, image − noise; shown with grey as 0, white as +${setup.velocityRange}, black as −${setup.velocityRange}.</dd>
      <dt>Predicted image</dt><dd>Where the step’s velocity would lead at once: x + (1 − t) · velocity.</dd>
      <dt>NFE</dt><dd>Network passes per image so far; a guided pair counts two.</dd>
      <dt>ms/step</dt><dd>The sampler’s time for this step, without the panels.</dd>
      <dt>Reuse of the condition</dt><dd>Steps for which one pass of the DiT serves; between, the decoder goes on with its last tokens and the new time.</dd>
      <dt>Solver</dt><dd>How velocities become steps: euler follows each; heun asks a second time; heun_reuse and adams use those of steps before.</dd>
      <dt>Guidance</dt><dd>Pull away from what the model draws without a class, towards the class.</dd>
      <dt>DCT energy</dt><dd>Mean squared coefficient of the cosine transform of 8 × 8 blocks, low frequencies first; the paper draws log(1 + E) over its maximum.</dd>
      <dt>Power</dt><dd>Mean squared Fourier coefficient in a ring of frequencies; white noise of variance 1 has 1 everywhere.</dd>
      <dt>Condition</dt><dd>What the DiT hands the pixel decoder: one token a patch, so its frequencies end at half a cycle a patch, the pixels’ at half a cycle a pixel.</dd>
      <dt>The sentence</dt><dd>What condition and pixels draw of the first image as the shown step predicts it; where the pixels begin to draw more of the finest band than the condition, to the end; where that band of the predicted image has more power than the noise in x<sub>t</sub>, t²S = (1 − t)².</dd>
      <dt>By the condition</dt><dd>What the decoder draws of this condition and the noisy pixels of other pictures: baseline and condition together.</dd>
      <dt>By its own pixels</dt><dd>What changes when it is given the image’s own pixels: pixels and interaction; shown doubled, grey is 0. With the one before it sums to the predicted image of the class, before guidance.</dd>
      <dt>Bars and strips</dt><dd>Shares of each band, those above 0 stacked; the number is the condition’s. A click or a drag on a strip goes to that step.</dd>
      <dt>90% settled, ▲</dt><dd>The t from which the band’s correlation with the last prediction of the first image stays above 0.9, interpolated between steps.</dd>
      <dt>Share</dt><dd>A part’s inner product with the predicted image in a band, over the image’s own energy there; below 0 works against it.</dd>
      <dt>Condition, pixels</dt><dd>Main effects: what the DiT’s condition, and what the noisy pixels past the DiT, do by themselves, in place of those of other pictures. The pixels’ part holds what of the picture already stands in x<sub>t</sub>: it grows as t nears 1, for any model.</dd>
      <dt>Interaction</dt><dd>What both do only together.</dd>
      <dt>Baseline</dt><dd>What is drawn with other pictures’ condition and pixels.</dd>
      <dt>Keep</dt><dd>Picture: the images as a PNG, which brings the run back; Film: its predicted image, a frame a step, as a GIF; Spectra: all that was measured, as NPZ; Curves: the same as CSV;
        Python: a script that draws the run; Link: the page’s address, with what was chosen.</dd>
      <dt>Take this step apart</dt><dd>On the Decompose tab: the first image where the shown step began, at its own t and of its own class.</dd>
      <dt>Go on from here</dt><dd>The next run starts from the state that the shown step reached, with whatever is changed then; link, picture and script say so.</dd>
      <dt>Pin</dt><dd>Keeps this run on the screen, so that the next one stands beside it.</dd>
      ${Object.entries(setup.presets).map(([name, help]) => `<dt>${name}</dt><dd>${help}</dd>`).join("")}
      <dt>Keys</dt><dd><kbd>Space</kbd> starts or stops, <kbd>←</kbd> <kbd>→</kbd> look back and forth, <kbd>P</kbd> pins; a control that has
        the focus keeps the keys that it needs. A picture: a click or <kbd>Enter</kbd> enlarges it.</dd>
    </dl></details>`;
  const find = (selector) => root.querySelector(selector);
  const answer = mountAnswer(find(".dl-answer"), setup.bands, (t) => goTo(stepAt(t)));
  const canvases = Object.fromEntries(
    [...root.querySelectorAll("canvas[data-canvas]")].map((node) => [node.dataset.canvas, node]));
  const scrub = find(".dl-scrub input"), pinButton = find('[data-do="pin"]'), liveButton = find('[data-do="live"]');
  const resumeButton = find('[data-do="resume"]');
  const apartButton = find('[data-do="apart"]');

  const spectrum = mountSpectrum(find(".dl-spectrum"), SPECTRA, -4, true);
  const heatmap = mountHeatmap(root, (t) => goTo(stepAt(t)));

  // ---- shares and guidance over t ----------------------------------------------------------------
  // A plot of lines over t in [0, 1], filled point by point; `height` puts a value from 0 to 1.
  function overTime(parent, label, looks, ticks, height, { W = 220, H = 140, left = 26 } = {}) {
    const right = W - 6, top = 6, bottom = H - 20;
    const plot = svg(parent, "svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": label });
    const X = (t) => left + t * (right - left), Y = (value) => bottom - height(value) * (bottom - top);
    for (const [value, text, look] of ticks) {
      line(plot, look || "dl-grid", left, Y(value), right, Y(value));
      svg(plot, "text", { x: left - 5, y: Y(value) + 3.5, "text-anchor": "end" }, text);
    }
    line(plot, "dl-grid", left, top, left, bottom);
    for (const t of [0, 0.5, 1])
      svg(plot, "text", { x: X(t), y: bottom + 16, "text-anchor": t === 1 ? "end" : "middle" }, t === 0.5 ? "t = 0.5" : t);
    const cursor = line(plot, "dl-cursor", left, top, left, bottom);
    cursor.style.visibility = "hidden";
    const inside = svg(plot, "svg", { x: left, y: top, width: right - left + 2, height: bottom - top,
      viewBox: `${left} ${top} ${right - left + 2} ${bottom - top}`, class: "dl-inside" });
    const pinned = looks.map((look) => svg(inside, "path", { class: `${look} dl-before` }));
    const lines = looks.map((look) => svg(inside, "path", { class: look }));
    // Where a part has no share the line is broken.
    let paths = looks.map(() => ""), pens = looks.map(() => "M");
    return {
      clear: () => { paths = looks.map(() => ""); pens = looks.map(() => "M"); },
      pin: (on) => pinned.forEach((node, i) => node.setAttribute("d", on ? paths[i] : "")),
      add: (t, values) => values.forEach((value, i) => {
        if (value !== null) paths[i] += `${pens[i]}${X(t).toFixed(1)},${Y(value).toFixed(1)}`;
        pens[i] = value === null ? "M" : "L";
      }),
      paint(t) {
        lines.forEach((node, i) => node.setAttribute("d", paths[i]));
        cursor.style.visibility = t === null ? "hidden" : "visible";
        if (t !== null) for (const end of ["x1", "x2"]) cursor.setAttribute(end, X(t));
      },
    };
  }
  const bands = setup.shareBands.map((name, index) => {
    const box = document.createElement("div");
    box.innerHTML = `<h3>${name}</h3><div class="dl-values">${
      PARTS.map((part) => `<span class="${part.look}">${part.name}<b>–</b></span>`).join("")}</div>`;
    find(".dl-bands").appendChild(box);
    const values = box.querySelectorAll("b");
    const ticks = [0, 0.5, 1].map((v) => [v, percent(v), v ? "dl-grid" : "dl-axis"]);
    // Lines leave the plot at -0.5 and 1.5, numbers go on.
    const plot = overTime(box, `Shares of the band ${name} over t`, PARTS.map((p) => p.look), ticks, (v) => (v + 0.5) / 2, { left: 36 });
    return {
      ...plot,
      add(frame) {
        const shares = frame.curves.predicted_shares;
        if (shares) plot.add(frame.t_start, PARTS.map((_, i) => shares[i][index]));
      },
      paint(frame) {
        const shares = frame.curves.predicted_shares;
        plot.paint(shares ? frame.t_start : null);
        PARTS.forEach((_, i) => { values[i].textContent = percent(shares ? shares[i][index] : null); });
      },
    };
  });
  const guidance = (() => {
    const LOW = -4, HIGH = 2; // decades
    const ticks = [-4, -3, -2, -1, 0, 1, 2].map((d) => [10 ** d, 10 ** d, d ? "dl-grid" : "dl-axis"]);
    const plot = overTime(find('[data-plot="guidance"]'), "What guidance changes in each band, over t",
      BANDS.map((band) => band.look), ticks, (v) => (Math.log10(Math.max(v, 1e-9)) - LOW) / (HIGH - LOW),
      { W: 400, H: 336, left: 52 });
    return {
      ...plot,
      add: (frame) => frame.curves.guidance_bands && plot.add(frame.t_start, frame.curves.guidance_bands),
      paint: (frame) => plot.paint(frame.curves.guidance_bands ? frame.t_start : null),
    };
  })();
  const overT = [...bands, guidance];

  // Plots that do not apply to a run are gone from its beginning on; the answer's note says why.
  const isDivided = ({ has_decoder, decompose }) => has_decoder && decompose;
  function describe(begin) {
    find('[data-note="shares"]').textContent =
      "Shares of the class’s predicted image x + (1 − t) · velocity, before guidance, of the first image. In place of an input: " +
      `that of ${begin.others}, at the same t (conditions at the nearest of 16 times). They sum to 100% in each band (cycles/pixel).`;
    find(".dl-share-plots").hidden = !isDivided(begin);
    find(".dl-guidance").hidden = begin.guided_from === null;
    find(".dl-over-t").hidden = !isDivided(begin) && begin.guided_from === null;
    spectrum.leaveOut("condition_energy", !isDivided(begin));
  }

  // What behind "More" is not at its default.
  function sayMore(changed) {
    const names = changed.filter((name) => name in setup.more).map((name) => setup.more[name]);
    const node = document.querySelector("#more-says p");
    if (node) node.textContent = names.length ? `Not at its default: ${names.join(", ")}.` : "All else is at its default.";
  }

  // ---- pin and compare -----------------------------------------------------------------------------
  let pinned = null; // {begin, history}
  function pin() {
    pinned = { begin: current.begin, history: history.slice() };
    overT.forEach((plot) => plot.pin(true));
    showPinned();
  }
  function unpin() {
    pinned = null;
    overT.forEach((plot) => plot.pin(false));
    showPinned();
  }
  function showPinned() {
    pinButton.textContent = pinned ? "Unpin" : "Pin this run";
    pinButton.setAttribute("aria-pressed", Boolean(pinned));
    find(".dl-pinned").hidden = !pinned;
    spectrum.compare(Boolean(pinned));
    sayPinned();
    schedule();
  }
  function sayPinned() {
    if (!pinned) return;
    const counts = [pinned.begin, current.begin].map((begin) => begin.num_images), [few, many] = [Math.min(...counts), Math.max(...counts)];
    find('[data-note="pinned"]').textContent =
      `Pinned: ${pinned.begin.title}. Both runs at the same t; pale lines are the pinned run’s. ` +
      "The difference is new − pinned of the 8-bit pictures, doubled; grey is none" +
      (few < many ? `; the first ${few} of ${many} are compared.` : ".");
  }
  const nearest = (frames, t) =>
    frames.reduce((best, frame) => (!best || Math.abs(frame.t - t) < Math.abs(best.t - t) ? frame : best), null);
  function difference(now, before) {
    if (!now || !before || now.height !== before.height || now.width !== before.width) return null;
    const count = Math.min(now.count, before.count), bytes = new Uint8ClampedArray(count * now.height * now.width * 3);
    for (let i = 0; i < bytes.length; i++) bytes[i] = 127.5 + 2 * (now.bytes[i] - before.bytes[i]);
    return { ...now, count, bytes };
  }
  function clearOrDraw(key, pictures) {
    drawPictures(canvases[key], pictures, shown.noisy);
  }

  // ---- updates in, paints out ------------------------------------------------------------------------
  let run = 0, current = { run: 0, begin: null }, history = [], bytes = 0; // history[i] is the frame of step i
  let following = true, shown = null, scheduled = false, seen = 0, painted = 0;

  const KINDS = ["noisy", "predicted", "velocity", "drawn", "bands"];
  const sizeOf = (frame) =>
    KINDS.reduce((sum, key) => sum + (frame[key] ? frame[key].bytes.length : 0), 0);
  function keep(frame) {
    if (history[frame.index]) return;
    for (const key of KINDS) frame[key] = unpackPictures(frame[key]);
    answer.add(frame);
    overT.forEach((plot) => plot.add(frame));
    heatmap.add(frame);
    history[frame.index] = frame;
    root.dataset.seen = ++seen;
    root.dataset.newest = frame.index;
    bytes += sizeOf(frame);
    if (bytes < HISTORY_BYTES) return;
    history = history.filter((old, i) => i % 2 === 0 || old === frame).reduce((kept, old) => {
      kept[old.index] = old;
      return kept;
    }, []);
    bytes = history.reduce((sum, old) => sum + sizeOf(old), 0);
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
    const frame = shown, num_steps = current.begin.num_steps;
    const facts = {
      step: `${frame.index}/${num_steps}`, t: frame.t.toFixed(3), nfe: frame.nfe,
      ms: frame.index ? frame.sampling_ms.toFixed(0) : "–",
    };
    for (const key in facts) find(`[data-fact="${key}"]`).textContent = facts[key];
    scrub.disabled = false;
    scrub.max = num_steps;
    scrub.value = frame.index;
    scrub.setAttribute("aria-valuetext", `step ${frame.index}, t ${frame.t.toFixed(2)}`);
    pinButton.disabled = false;
    allowApart();
    showLive();
    for (const key of ["noisy", "velocity"]) clearOrDraw(key, frame[key]);
    answer.paint(frame, history[frame.index - 1]);
    const before = pinned && nearest(pinned.history.filter(Boolean), frame.t);
    if (before) {
      clearOrDraw("pinned-noisy", before.noisy);
      clearOrDraw("pinned-predicted", before.predicted);
      clearOrDraw("difference", difference(frame.predicted, before.predicted));
    }
    spectrum.paint(frame.curves, before && before.curves, isDivided(current.begin) ? current.begin.patch_size : 0);
    heatmap.paint(frame);
    overT.forEach((plot) => plot.paint(frame));
    root.dataset.title = current.begin.title;
    root.dataset.shownRun = current.run;
    root.dataset.step = frame.index;
    root.dataset.painted = ++painted;
  }
  // What a step left is kept when its run has ended.
  function allowApart() {
    apartButton.disabled = !shown || !current.begin.has_decoder || isRunning();
    resumeButton.disabled = !shown || shown.t === 1 || isRunning();
  }
  apartButton.addEventListener("click", () => DecoLab.send("apart", String(shown.index)));
  resumeButton.addEventListener("click", () => DecoLab.send("resume", String(shown.index)));
  function stepAt(t) {
    const found = history.findLast((frame) => frame && frame.t_start !== null && frame.t_start <= t);
    return found ? found.index : 0;
  }
  function goTo(index) {
    index = Math.min(history.length - 1, Math.max(0, index));
    const onwards = shown && index > shown.index ? 1 : -1; // past steps that were left out
    while (index > 0 && !history[index]) index += onwards;
    if (!history[index]) return;
    following = index === history.length - 1;
    shown = history[index];
    schedule();
  }
  // While a run goes on past what is looked at there is a way back to it.
  function showLive() {
    const isBehind = !following && isRunning();
    if (!isBehind && document.activeElement === liveButton) scrub.focus();
    liveButton.style.visibility = isBehind ? "visible" : "hidden";
  }
  const isRunning = () => ["running", "waiting"].includes(root.dataset.status);
  liveButton.addEventListener("click", () => goTo(history.length - 1));
  scrub.addEventListener("input", () => goTo(+scrub.value));
  pinButton.addEventListener("click", () => (pinned ? unpin() : pin()));
  document.addEventListener("keydown", (event) => {
    if (!root.isConnected || !root.offsetParent || !DecoLab.isFree(event)) return;
    if (event.key === "ArrowLeft") goTo((shown ? shown.index : 0) - 1);
    else if (event.key === "ArrowRight") goTo((shown ? shown.index : 0) + 1);
    else if (event.key === "p" || event.key === "P") !pinButton.disabled && pinButton.click();
    else if (event.key === " ") {
      if (!event.repeat) document.getElementById(isRunning() ? "stop" : "start")?.click();
    } else return;
    event.preventDefault();
  });

  // The address always leads back to what is drawn; Gradio's own __theme stays.
  function putInAddress(query) {
    const theme = new URLSearchParams(location.search).get("__theme");
    const all = [query, theme && `__theme=${encodeURIComponent(theme)}`].filter(Boolean).join("&");
    window.history.replaceState(window.history.state, "", location.pathname + (all && `?${all}`));
  }

  // Only a run's first message comes through Gradio; it says where the others are.
  let stream = null;
  function follow(address) {
    stream?.close();
    const source = (stream = new EventSource(address));
    source.onmessage = (event) => show(JSON.parse(event.data));
    source.addEventListener("end", () => source.close());
    source.onerror = () => {
      source.close();
      if (stream !== source) return;
      root.dataset.status = "stopped";
      DecoLab.showRunning(false);
      showLive();
      find(".dl-says").textContent = "The connection to the server was lost; start again.";
    };
  }

  // Once the page is whole, which it is when the first update comes.
  function welcome() {
    document.querySelectorAll("#presets button").forEach((button) => {
      button.title = setup.presets[button.textContent.trim()];
      button.setAttribute("aria-description", button.title);
    });
    document.documentElement.classList.add("dl-ready");
  }

  function show(update) {
    if (update.run < run) return; // a superseded run's last words
    if (update.stream) follow(update.stream);
    run = update.run;
    if (!document.documentElement.matches(".dl-ready")) welcome();
    root.dataset.run = run;
    root.dataset.status = update.status;
    allowApart();
    DecoLab.showRunning(isRunning());
    const says = find(".dl-says"), text = DecoLab.worded(root, update, setup.labels) || update.text;
    if (says.textContent !== text) says.textContent = text;
    if (update.begin && update.frames.length && current.run !== run) {
      if (update.begin.pin === "before" && history.length) pin();
      if (update.begin.pin === "none") unpin();
      current = { run, begin: update.begin };
      history = [];
      bytes = 0;
      following = true;
      overT.forEach((plot) => plot.clear());
      heatmap.clear(update.begin);
      answer.clear(update.begin);
      describe(update.begin);
      sayMore(update.begin.changed);
      sayPinned();
      putInAddress(update.begin.query);
    }
    for (const frame of update.frames || []) keep(frame);
    if (update.settled) answer.settle(update.settled);
    showLive();
    if (!(update.frames || []).length) return;
    if (following) shown = history.at(-1);
    schedule();
  }
  showPinned();
  showLive();
  return { show };
}
