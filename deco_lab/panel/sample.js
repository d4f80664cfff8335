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
  const { unpackPictures, drawPictures, svgButton } = DecoLab;
  const HISTORY_BYTES = 96e6; // pictures kept for looking back; older ones are thinned beyond this

  const SPECTRA = [
    { key: "predicted_energy", name: "predicted image", look: "dl-image" },
    { key: "velocity_energy", name: "velocity", look: "dl-velocity" },
    { key: "condition_energy", name: "condition", look: "dl-condition" },
  ];
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
    <div class="dl-pinned" hidden></div>
    <div class="dl-scrub">
      <label><span>Look back</span>
        <input type="range" min="0" max="1" value="0" disabled aria-label="Step to look at"></label>
      <button type="button" class="dl-button" data-do="live" title="To the newest step, and on with the run">Live</button>
      <button type="button" class="dl-button" data-do="apart" disabled title="On the Decompose tab, once the run has ended">Take this step apart</button>
      <button type="button" class="dl-button" data-do="resume" disabled title="The next run starts from this step’s state, with whatever is changed; once the run has ended">Go on from here</button>
      <button type="button" class="dl-button" data-do="pin" disabled aria-pressed="false">Pin this run</button>
    </div>
    <div class="dl-kept"></div>
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
          <div class="dl-legend" data-legend="parts"></div>
          <div class="dl-bands"></div>
        </div>
        <div class="dl-guidance" data-figure>
          <div class="dl-head"><h2>What guidance changes</h2>${svgButton("guidance")}</div>
          <p class="dl-note">Energy of guided − class velocity over the class velocity’s, in each band (cycles/pixel): at 1 guidance
            moves the band by as much as the class has there.</p>
          <div class="dl-legend" data-legend="bands"></div>
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
      <dt>Take this step apart</dt><dd>On the Decompose tab: the first image where the shown step began, at its own t and of its own class; and what each block of the DiT did there.</dd>
      <dt>Go on from here</dt><dd>The next run starts from the state that the shown step reached, with whatever is changed then; link, picture and script say so.</dd>
      <dt>Runs</dt><dd>The twelve newest that have ended, with what differs from the one before: a click shows one again, “To the form” takes its
        settings. They last as long as this page; the server’s copies go with it, and no other page sees them.</dd>
      <dt>Pin</dt><dd>Keeps the run that is shown, three at most, so that others stand beside it: side by side, by wipe, or as a difference; with
        the energy of each band of the predicted image over the pinned run’s, in decibels: 10 is ten times as much.</dd>
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

  const overT = mountOverT(root, setup);

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

  // ---- runs that are kept ------------------------------------------------------------------------
  const kept = mountKept({ strip: find(".dl-kept"), answer: find(".dl-answer"), pinned: find(".dl-pinned") }, setup, {
    onOpen: openAgain,
    onPins: showPinned,
  });
  // What is kept of a run is then kept of this one.
  function openAgain(run) {
    DecoLab.send("again", String(run.run));
    open(run);
  }
  // Pale lines are those of the run that was pinned last.
  function showPinned() {
    const before = kept.last();
    for (const plot of overT) {
      plot.clear();
      before?.steps.forEach(plot.add);
      plot.pin(Boolean(before));
      plot.clear();
      current.steps.forEach(plot.add);
    }
    spectrum.compare(Boolean(before));
    schedule();
  }
  const nearest = (frames, t) =>
    frames.reduce((best, frame) => (!best || Math.abs(frame.t - t) < Math.abs(best.t - t) ? frame : best), null);
  function clearOrDraw(key, pictures) {
    drawPictures(canvases[key], pictures, shown.noisy);
  }

  // ---- updates in, paints out ------------------------------------------------------------------------
  // What draws, and what is shown: {run, begin, frames, steps}, see keep.js; frames[i] is that of step i.
  let run = 0, live = { run: 0, begin: null, frames: [], steps: [], bytes: 0 }, current = live;
  let following = true, shown = null, seen = 0, painted = 0;

  const KINDS = ["noisy", "predicted", "velocity", "drawn", "bands"];
  const sizeOf = (frame) =>
    KINDS.reduce((sum, key) => sum + (frame[key] ? frame[key].bytes.length : 0), 0);
  function keep(frame) {
    if (live.frames[frame.index]) return;
    live.steps.push({ ...frame, ...Object.fromEntries(KINDS.map((key) => [key, null])) });
    for (const key of KINDS) frame[key] = unpackPictures(frame[key]);
    live.frames[frame.index] = frame;
    if (live === current) add(frame);
    root.dataset.seen = ++seen;
    root.dataset.newest = frame.index;
    live.bytes += sizeOf(frame);
    if (live.bytes < HISTORY_BYTES) return;
    live.frames = live.frames.filter((old, i) => i % 2 === 0 || old === frame).reduce((left, old) => {
      left[old.index] = old;
      return left;
    }, []);
    live.bytes = live.frames.reduce((sum, old) => sum + sizeOf(old), 0);
  }
  function add(frame) {
    answer.add(frame);
    overT.forEach((plot) => plot.add(frame));
    heatmap.add(frame);
  }
  // Show a run from now on, with what is known of it.
  function open(next) {
    current = next;
    overT.forEach((plot) => plot.clear());
    heatmap.clear(current.begin);
    answer.clear(current.begin);
    describe(current.begin);
    sayMore(current.begin.changed);
    putInAddress(current.begin.query);
    current.steps.forEach(add);
    if (current.settled) answer.settle(current.settled);
    goTo(Infinity);
  }
  const schedule = DecoLab.onceAFrame(() => paint());
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
    pinButton.textContent = kept.has(current) ? "Unpin" : "Pin this run";
    pinButton.setAttribute("aria-pressed", kept.has(current));
    allowApart();
    showLive();
    for (const key of ["noisy", "velocity"]) clearOrDraw(key, frame[key]);
    answer.paint(frame, current.frames[frame.index - 1]);
    kept.paint(current, frame);
    const before = kept.last() && nearest(kept.last().steps, frame.t);
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
    apartButton.disabled = !shown || isRunning();
    resumeButton.disabled = !shown || shown.t === 1 || isRunning();
  }
  apartButton.addEventListener("click", () => DecoLab.send("apart", String(shown.index)));
  resumeButton.addEventListener("click", () => DecoLab.send("resume", String(shown.index)));
  function stepAt(t) {
    const found = current.frames.findLast((frame) => frame && frame.t_start !== null && frame.t_start <= t);
    return found ? found.index : 0;
  }
  function goTo(index) {
    const { frames } = current;
    index = Math.min(frames.length - 1, Math.max(0, index));
    const onwards = shown && index > shown.index ? 1 : -1; // past steps that were left out
    while (index > 0 && !frames[index]) index += onwards;
    if (!frames[index]) return;
    following = current === live && index === frames.length - 1;
    shown = frames[index];
    schedule();
  }
  // While a run goes on past what is looked at there is a way back to it.
  function showLive() {
    const isBehind = !following && isRunning() && live.run === run;
    if (!isBehind && document.activeElement === liveButton) scrub.focus();
    liveButton.style.visibility = isBehind ? "visible" : "hidden";
  }
  const isRunning = () => ["running", "waiting"].includes(root.dataset.status);
  liveButton.addEventListener("click", () => (current === live ? goTo(Infinity) : openAgain(live)));
  scrub.addEventListener("input", () => goTo(+scrub.value));
  pinButton.addEventListener("click", () => (kept.has(current) ? kept.unpin(current) : kept.pin(current)));
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
    if (update.begin && update.frames.length && live.run !== run) {
      if (update.begin.pin === "before" && live.frames.length) kept.pin(live);
      if (update.begin.pin === "none") kept.unpin();
      live = { run, begin: update.begin, frames: [], steps: [], bytes: 0 };
      following = true;
      open(live);
    }
    for (const frame of update.frames || []) keep(frame);
    if (update.settled) {
      live.settled = update.settled;
      if (current === live) answer.settle(live.settled);
    }
    if (["done", "stopped"].includes(update.status) && live.run === run && live.frames.length) end(live);
    showLive();
    if (!(update.frames || []).length) return;
    if (following) shown = live.frames.at(-1);
    schedule();
  }
  // Once for each run.
  function end(ended) {
    if (ended.hasEnded) return;
    ended.hasEnded = true;
    kept.add(ended);
  }
  showLive();
  return { show };
}
