// DCT energies against zigzag index, with the frequencies of pixels and of tokens.
//
//   const spectrum = mountSpectrum(section, curves, lowest, canCompare);
//   spectrum.paint(energies, before, patchSize);     // before: those of the pinned run, or null
//
// A curve is {key, name, look}, energies maps keys to 64 numbers. patchSize, or 0, is that of the
// tokens, whose row of frequencies has the look of the last curve, the condition's. Scales are the
// paper's log(1+E)/max, raw energy from 10^lowest to 10^4, and decibels over the pinned run.
function mountSpectrum(section, curves, lowest, canCompare) {
  "use strict";
  const { svg, line, number, fraction, zigzag, legend } = DecoLab;
  const W = 400, H = 246, left = 34, right = 394, top = 8, bottom = 190, highest = 4;
  const decades = Array.from({ length: (highest - lowest) / 2 + 1 }, (_, i) => lowest + 2 * i);
  const SCALES = {
    curve: {
      name: "log(1+E) / max", ticks: [[0, "0"], [0.5, "0.5"], [1, "1"]], height: (v) => v, say: (v) => number(v),
      note: "Each curve is divided by its own maximum, so heights do not compare between curves; E does.",
    },
    energy: {
      name: "E", ticks: decades.map((d) => [(d - lowest) / (highest - lowest), d ? `1e${number(d, 0)}` : "1"]),
      height: (v) => (Math.log10(Math.max(v, 1e-30)) - lowest) / (highest - lowest),
      say: (v) => (v >= 0.1 && v < 1000 ? number(v) : v.toExponential(1).replace("-", "\u2212")),
      note: "Energies compare between curves; white noise of variance 1 has 1 everywhere.",
    },
    ratio: { // from -20 to 20
      name: "dB over pinned", ticks: [-20, -10, 0, 10, 20].map((d) => [(d + 20) / 40, number(d, 0)]),
      height: (v) => (v + 20) / 40, say: (v) => `${number(v, 1)} dB`,
      note: "Decibels over the pinned run at the same t: 10 is ten times its energy.",
    },
  };
  const modes = Object.keys(SCALES).filter((mode) => mode !== "ratio" || canCompare);
  section.innerHTML = `
    <div class="dl-head"><h2>DCT energy of 8 × 8 blocks</h2>${DecoLab.svgButton("spectrum")}
      <div class="dl-modes" role="group" aria-label="Energy scale">${modes.map((mode) =>
        `<button type="button" data-mode="${mode}">${SCALES[mode].name}</button>`).join("")}</div></div>
    <div class="dl-legend">${legend(curves)}</div>
    <div data-plot="spectrum"></div>
    <p class="dl-note"></p>`;
  section.dataset.figure = "";
  const note = section.querySelector(".dl-note"), buttons = section.querySelectorAll("[data-mode]");
  const plot = svg(section.querySelector("[data-plot]"), "svg", {
    viewBox: `0 0 ${W} ${H}`, role: "img", tabindex: 0,
    "aria-label": `DCT energy of ${curves.map(({ name }) => name).join(", ")} against zigzag index; arrow keys read values`,
  });
  const X = (k) => left + (k / 63) * (right - left);
  const Y = (share) => bottom - Math.min(1, Math.max(0, share)) * (bottom - top);
  const axis = svg(plot, "g", {}), frequencies = svg(plot, "g", {});
  line(plot, "dl-axis", left, bottom, right, bottom);
  const before = curves.map((curve) => svg(plot, "polyline", { class: `${curve.look} dl-before` }));
  const lines = curves.map((curve) => svg(plot, "polyline", { class: curve.look }));
  const cursor = line(plot, "dl-cursor", 0, top, 0, bottom);
  cursor.style.visibility = "hidden";

  let mode = "curve", hovered = null, shown = {}, pinned = null, patchSize = null;

  // The values of a curve on the present scale; null where there are none.
  function valuesOf(energies, key) {
    const energy = energies && energies[key];
    if (!energy || mode === "energy") return energy;
    if (mode === "curve") {
      const logs = energy.map((e) => Math.log1p(e)), largest = Math.max(...logs) || 1;
      return logs.map((e) => e / largest);
    }
    const other = pinned && pinned[key];
    return other ? energy.map((e, k) => (e > 0 && other[k] > 0 ? 10 * Math.log10(e / other[k]) : 0)) : null;
  }
  function drawAxis() {
    axis.replaceChildren();
    for (const [at, text] of SCALES[mode].ticks) {
      line(axis, mode === "ratio" && at === 0.5 ? "dl-axis" : "dl-grid", left, Y(at), right, Y(at));
      svg(axis, "text", { x: left - 5, y: Y(at) + 3.5, "text-anchor": "end" }, text);
    }
  }
  // Ticks where the zigzag starts an even diagonal: purely vertical waves of n / 16 cycles per block pixel.
  function drawFrequencies() {
    const look = `dl-ticks ${curves.at(-1).look}`, end = { x: right, "text-anchor": "end" };
    frequencies.replaceChildren();
    for (const [k, n] of [[0, 0], [10, 4], [21, 6]]) {
      const under = { x: X(k), "text-anchor": "middle" };
      line(frequencies, "dl-grid", X(k), top, X(k), bottom + 4);
      svg(frequencies, "text", { ...under, y: bottom + 16 }, k);
      svg(frequencies, "text", { ...under, y: bottom + 34 }, fraction(n, 16));
      if (patchSize) svg(frequencies, "text", { ...under, y: bottom + 52, class: look }, fraction(n, 16 * patchSize));
    }
    svg(frequencies, "text", { ...end, y: bottom + 16 }, "zigzag index, to 63");
    svg(frequencies, "text", { ...end, y: bottom + 34 }, "pixels, to 1/2 cycles/pixel");
    if (patchSize)
      svg(frequencies, "text", { ...end, y: bottom + 52, class: look }, `condition, to 1/${2 * patchSize} cycles/pixel`);
  }
  function read() {
    if (hovered === null) {
      note.textContent = `${SCALES[mode].note} Ticks mark purely vertical waves; point at the plot, or use the arrow keys, for values.`;
      return;
    }
    const [u, v] = zigzag[hovered], f = Math.hypot(u, v) / 16;
    const said = curves.flatMap(({ key, name }) => {
      const values = valuesOf(shown, key);
      return values && values[hovered] !== null ? [`${name} ${SCALES[mode].say(values[hovered])}`] : [];
    });
    note.textContent = `Index ${hovered} (vertical ${u}, horizontal ${v}): ${f.toFixed(3)} cycles/pixel in pixels` +
      (patchSize ? `, ${(f / patchSize).toFixed(4)} in the condition` : "") + `. ${said.join(", ")}`;
  }
  function drawLine(node, values) {
    const { height } = SCALES[mode];
    node.setAttribute("points", values
      ? values.map((value, k) => `${X(k).toFixed(1)},${Y(value === null ? 0 : height(value)).toFixed(1)}`).join(" ")
      : "");
  }
  function draw() {
    curves.forEach(({ key }, i) => {
      drawLine(lines[i], valuesOf(shown, key));
      drawLine(before[i], mode === "ratio" ? null : valuesOf(pinned, key));
    });
    read();
  }
  function choose(next) {
    mode = next;
    buttons.forEach((button) => button.setAttribute("aria-pressed", button.dataset.mode === mode));
    drawAxis();
    draw();
  }
  function point(k) {
    hovered = k === null ? null : Math.min(63, Math.max(0, k));
    cursor.style.visibility = hovered === null ? "hidden" : "visible";
    if (hovered !== null) for (const end of ["x1", "x2"]) cursor.setAttribute(end, X(hovered));
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
  buttons.forEach((button) => button.addEventListener("click", () => choose(button.dataset.mode)));

  function paint(energies, of_pinned, size) {
    shown = energies;
    pinned = of_pinned;
    if (size !== patchSize) {
      patchSize = size;
      drawFrequencies();
    }
    draw();
  }
  // Whether there is a pinned run to be compared with.
  function compare(on) {
    section.querySelector('[data-mode="ratio"]').disabled = !on;
    if (!on && mode === "ratio") choose("curve");
  }
  // Leave a curve out, or take it in again.
  function leaveOut(key, out) {
    const at = curves.findIndex((curve) => curve.key === key);
    for (const node of [section.querySelectorAll(".dl-legend span")[at], lines[at], before[at]])
      node.style.display = out ? "none" : "";
  }
  choose(mode);
  paint({}, null, 0);
  return { paint, compare, leaveOut };
}
