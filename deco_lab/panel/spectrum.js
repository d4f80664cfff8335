// The DCT energies of a step against zigzag index, with the frequencies of pixels and of tokens.
//
//   const spectrum = mountSpectrum(root);          // root holds [data-plot], [data-note], [data-mode]
//   spectrum.paint(frame, pinnedFrame, begin);     // either frame may be null
//
// Three scales: the paper's curve log(1+E)/max, raw energy, and decibels over the pinned run.
const spectrumCurves = [
  { key: "predicted_energy", name: "predicted image", look: "dl-image" },
  { key: "velocity_energy", name: "velocity", look: "dl-velocity" },
  { key: "condition_energy", name: "condition", look: "dl-dit" },
];

function mountSpectrum(root) {
  "use strict";
  const { svg, line, number, fraction, zigzag } = DecoLab;
  const W = 400, H = 246, left = 34, right = 394, top = 8, bottom = 190;
  const SCALES = {
    curve: { ticks: [[0, "0"], [0.5, "0.5"], [1, "1"]], height: (v) => v },
    energy: { // decades from -4 to 4
      ticks: [-4, -2, 0, 2, 4].map((d) => [(d + 4) / 8, d ? `1e${number(d, 0)}` : "1"]),
      height: (v) => (Math.log10(Math.max(v, 1e-30)) + 4) / 8,
    },
    ratio: { // decibels from -20 to 20
      ticks: [-20, -10, 0, 10, 20].map((d) => [(d + 20) / 40, number(d, 0)]),
      height: (v) => (v + 20) / 40,
    },
  };
  const note = root.querySelector('[data-note="spectrum"]');
  const plot = svg(root.querySelector('[data-plot="spectrum"]'), "svg", {
    viewBox: `0 0 ${W} ${H}`, role: "img", tabindex: 0,
    "aria-label": "DCT energy of predicted image, velocity and condition against zigzag index; arrow keys read values",
  });
  const X = (k) => left + (k / 63) * (right - left);
  const Y = (share) => bottom - Math.min(1, Math.max(0, share)) * (bottom - top);
  const axis = svg(plot, "g", {}), frequencies = svg(plot, "g", {});
  line(plot, "dl-axis", left, bottom, right, bottom);
  const before = spectrumCurves.map((curve) => svg(plot, "polyline", { class: `${curve.look} dl-before` }));
  const lines = spectrumCurves.map((curve) => svg(plot, "polyline", { class: curve.look }));
  const cursor = line(plot, "dl-cursor", 0, top, 0, bottom);
  cursor.style.visibility = "hidden";

  let mode = "curve", hovered = null, shown = { frame: null, pinned: null }, patchSize = 0;

  // The values of a curve on the present scale; null where there are none.
  function valuesOf(frame, key, pinned) {
    const energy = frame && frame.curves[key];
    if (!energy) return null;
    if (mode === "energy") return energy;
    if (mode === "curve") {
      const logs = energy.map((e) => Math.log1p(e));
      const largest = Math.max(...logs) || 1;
      return logs.map((e) => e / largest);
    }
    const other = pinned && pinned.curves[key];
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
    frequencies.replaceChildren();
    for (const [k, n] of [[0, 0], [3, 2], [10, 4], [21, 6]]) {
      const under = { x: X(k), "text-anchor": "middle" };
      line(frequencies, "dl-grid", X(k), top, X(k), bottom + 4);
      svg(frequencies, "text", { ...under, y: bottom + 16 }, k);
      svg(frequencies, "text", { ...under, y: bottom + 34 }, fraction(n, 16));
      if (patchSize)
        svg(frequencies, "text", { ...under, y: bottom + 52, class: "dl-dit" }, fraction(n, 16 * patchSize));
    }
    const end = { x: right, "text-anchor": "end" };
    svg(frequencies, "text", { ...end, y: bottom + 16 }, "zigzag index, to 63");
    svg(frequencies, "text", { ...end, y: bottom + 34 }, "pixels, to 1/2 cycles/pixel");
    if (patchSize)
      svg(frequencies, "text", { ...end, y: bottom + 52, class: "dl-dit" }, `condition, to 1/${2 * patchSize} cycles/pixel`);
  }
  function read() {
    if (hovered === null) {
      note.textContent = (patchSize
        ? `One token a patch of ${patchSize} × ${patchSize}: the condition’s frequencies end at 1/${2 * patchSize} cycles/pixel, the pixels’ at 1/2. `
        : "") + "Ticks mark purely vertical waves; point at the plot, or use the arrow keys, for values.";
      return;
    }
    const [u, v] = zigzag[hovered], f = Math.hypot(u, v) / 16;
    const said = spectrumCurves.flatMap((curve) => {
      const values = valuesOf(shown.frame, curve.key, shown.pinned);
      if (!values || values[hovered] === null) return [];
      const value = values[hovered];
      return [`${curve.name} ${mode === "energy" ? value.toExponential(2) : number(value, mode === "curve" ? 3 : 1)}`];
    });
    note.textContent = `Index ${hovered} (vertical ${u}, horizontal ${v}): ${f.toFixed(3)} cycles/pixel in pixels` +
      (patchSize ? `, ${(f / patchSize).toFixed(4)} in the condition` : "") + `. ${said.join(", ")}${mode === "ratio" ? " dB" : ""}`;
  }
  function drawLine(node, values) {
    const { height } = SCALES[mode];
    node.setAttribute("points", values
      ? values.map((value, k) => `${X(k).toFixed(1)},${Y(value === null ? 0 : height(value)).toFixed(1)}`).join(" ")
      : "");
  }
  function draw() {
    const { frame, pinned } = shown;
    spectrumCurves.forEach((curve, i) => {
      drawLine(lines[i], valuesOf(frame, curve.key, pinned));
      drawLine(before[i], mode === "ratio" ? null : valuesOf(pinned, curve.key, null));
    });
    read();
  }
  function paint(frame, pinned, begin) {
    shown = { frame, pinned };
    const size = begin && begin.has_decoder ? begin.patch_size : 0;
    if (size !== patchSize) {
      patchSize = size;
      drawFrequencies();
    }
    draw();
  }
  function choose(next) {
    mode = next;
    root.querySelectorAll("[data-mode]").forEach((b) => b.setAttribute("aria-pressed", b.dataset.mode === mode));
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
  root.querySelectorAll("[data-mode]").forEach((button) =>
    button.addEventListener("click", () => choose(button.dataset.mode)));
  drawAxis();
  drawFrequencies();
  read();
  return {
    paint,
    // Whether there is a pinned run to be compared with.
    compare(on) {
      const button = root.querySelector('[data-mode="ratio"]');
      button.disabled = !on;
      if (!on && mode === "ratio") choose("curve");
    },
  };
}
