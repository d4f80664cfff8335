// The runs of this page, the newest twelve: a strip below the answer, each with what differs from the
// run before; a click shows one again. Those that are pinned stand beside what is shown (compare.js).
//
//   const kept = mountKept({strip, answer, pinned}, setup, {onOpen, onPins});
//   kept.add(run)                           a run that has ended, or was stopped
//   kept.pin(run); kept.unpin(run); kept.unpin(); kept.has(run); kept.last()      of those that are pinned
//   kept.paint(run, frame)                  what is shown now
//
// A run is {run, begin, frames, steps}: frames by index, with their pictures, of which a run that is no
// longer shown keeps every second, fourth and so on, and steps, the same without pictures, all of them.
// They are gone with the page; the server keeps as many (deco_lab.workbench.sessions).
function mountKept(places, setup, hooks) {
  "use strict";
  const { escape } = DecoLab, { strip, answer, pinned } = places, { onOpen, onPins } = hooks;
  const MOST = 12, MOST_PINNED = 3, RUN_BYTES = 12e6;
  const SHORT = {
    guidance_scale: "w", band_scales: "w by band", num_steps: "steps", num_images: "images", class_ids: "class", time_shift: "shift",
    condition_reuse: "reuse", guidance_interval: "guided", dit_gains: "DiT gains", decoder_gains: "decoder gains", guidance_curve: "w over t",
    band_curves: "w by band over t", dit_curves: "DiT over t", decoder_curves: "decoder over t", start_t: "from t",
    start_from: "start", mask: "mask", decompose: "apart",
  };
  const MODES = { answer: "Answer", side: "Side by side", wipe: "Wipe", difference: "Difference" };
  strip.innerHTML = `
    <div class="dl-kept-side"><div><h2>Runs</h2><button type="button" class="dl-svg" data-do="refill" disabled
        title="Put the settings of the run that is shown into the form">To the form</button></div>
      <div class="dl-modes" role="group" aria-label="What stands above">${Object.entries(MODES).map(([mode, name]) =>
        `<button type="button" data-mode="${mode}" aria-pressed="${mode === "answer"}" ${mode === "answer" ? "" : "disabled"}>${name}</button>`).join("")}</div></div>
    <ol aria-label="Runs of this page, the newest last"><li class="dl-note">Runs that have ended stand here: a click shows one again, and what is pinned is compared.</li></ol>`;
  const list = strip.querySelector("ol"), refill = strip.querySelector('[data-do="refill"]');
  const buttons = [...strip.querySelectorAll("[data-mode]")];
  const compare = mountCompare(pinned, setup.bands, named, (run) => unpin(run));
  let runs = [], pins = [], shown = null, frame = null, wanted = "answer", previous = null;

  // ---- what differs --------------------------------------------------------------------------------
  const settingsOf = (begin) => Object.fromEntries(new URLSearchParams(begin.query));
  const said = (value) => {
    if (/^-?[\d.]+(e-?\d+)?$/.test(value)) return `${+(+value).toPrecision(6)}`;
    const text = value.replace(/^\[|\]$/g, "").replaceAll(",", ", ");
    return text.length > 14 ? null : text;
  };
  // [{name, label, from, to}] of the settings in which two runs differ; from and to are null where long.
  function differing(before, after) {
    const [a, b] = [before, after].map(({ begin }) => settingsOf(begin));
    return Object.keys({ ...a, ...b }).filter((name) => a[name] !== b[name]).map((name) => {
      const label = [setup.labels[name] ?? name].flat()[0];
      return { name: SHORT[name] ?? label.toLowerCase(), label, from: said(a[name] ?? ""), to: said(b[name] ?? "") };
    });
  }
  const step = ({ name, from, to }) => (from && to ? `${name} ${from}→${to}` : `${name} changed`);
  // What a run is called beside another: by what differs.
  function named(run, other) {
    const [one, ...more] = other ? differing(other, run) : [];
    if (!one) return other && other !== run ? "the same settings" : run.begin.title;
    return [one.to ? `${one.name} ${one.to}` : `other ${one.name}`, ...more.slice(0, 2).map(({ name, to }) => (to ? `${name} ${to}` : name))].join(", ");
  }

  // ---- the strip -----------------------------------------------------------------------------------
  function add(run) {
    const changes = previous ? differing(previous, run) : [];
    const caption = !previous ? "first run" : changes.length ? step(changes[0]) + (changes.length > 1 ? `, +${changes.length - 1}` : "") : "same again";
    const whole = !previous ? "the first run" : changes.length ? changes.map((one) => step({ ...one, name: one.label }).replace("→", " → ")).join(", ") : "the same settings again";
    const item = document.createElement("li"), picture = document.createElement("canvas"), last = run.frames.at(-1);
    DecoLab.drawPictures(picture, last.predicted || last.noisy);
    item.innerHTML = `<button type="button" title="${escape(`${run.begin.title}: ${whole}`)}"><img alt="" src="${picture.toDataURL()}"><span>${escape(caption)}</span></button>`;
    item.firstChild.setAttribute("aria-label", `Show run ${run.run} again: ${whole}`);
    item.firstChild.addEventListener("click", () => onOpen(run));
    if (!runs.length) list.replaceChildren();
    list.append(item);
    runs.push({ run, item });
    if (runs.length > MOST) runs.shift().item.remove();
    previous = run;
    list.scrollLeft = list.scrollWidth;
    mark();
  }
  function mark() {
    for (const { run, item } of runs) {
      item.firstChild.setAttribute("aria-pressed", run === shown);
      item.classList.toggle("dl-is-pinned", pins.includes(run));
    }
    refill.disabled = !shown;
  }
  refill.addEventListener("click", () => DecoLab.send("refill", shown.begin.query));
  // A run that is not shown keeps fewer of its pictures.
  function thin(run) {
    const size = (one) => Object.values(one).reduce((sum, value) => sum + (value?.bytes?.length || 0), 0);
    const last = run.frames.at(-1);
    while (run.frames.reduce((sum, one) => sum + size(one), 0) > RUN_BYTES) {
      const every = 2 * Math.max(1, run.frames.findIndex((one, i) => i > 0 && one));
      const left = [];
      run.frames.forEach((one, i) => (i % every === 0 || one === last) && (left[i] = one));
      if (left.filter(Boolean).length < 3) return;
      run.frames = left;
    }
  }

  // ---- pins ----------------------------------------------------------------------------------------
  function pin(run) {
    if (pins.includes(run)) return;
    if (!pins.length && wanted === "answer") wanted = "side";
    pins = [...pins, run].slice(-MOST_PINNED);
    changed();
  }
  function unpin(run) {
    pins = run ? pins.filter((one) => one !== run) : [];
    if (!pins.length) wanted = "answer";
    changed();
  }
  function changed() {
    onPins();
    mark();
    if (shown) paint(shown, frame);
  }
  const others = () => pins.filter((run) => run !== shown);
  for (const button of buttons)
    button.addEventListener("click", () => {
      wanted = button.dataset.mode;
      paint(shown, frame);
    });
  // The comparison takes the place of the answer, and its height.
  function paint(run, now) {
    if (shown && shown !== run) thin(shown);
    [shown, frame] = [run, now];
    const mode = others().length ? wanted : "answer", isAnswer = mode === "answer";
    if (!isAnswer && pinned.hidden) pinned.style.minHeight = `${answer.getBoundingClientRect().height}px`;
    answer.hidden = !isAnswer;
    pinned.hidden = isAnswer;
    for (const button of buttons) {
      button.setAttribute("aria-pressed", button.dataset.mode === mode);
      button.disabled = button.dataset.mode !== "answer" && !others().length;
    }
    if (!isAnswer) compare.paint(mode, others(), run, now);
    mark();
  }
  return { add, pin, unpin, paint, has: (run) => pins.includes(run), last: () => pins.at(-1) };
}
