// Power over t and radial frequency, a column for each step as it comes; a click goes to its step.
//
//   const heatmap = mountHeatmap(root, (t) => ...);      // called with the t that was clicked
//   heatmap.clear(begin);  heatmap.add(frame);  heatmap.paint(frame);
//
// Columns span the step, from t_start to t. The colour scale of a signal is fixed, so that runs can be
// compared and nothing flickers; it ends where most of the plane does, so that the plane has contrast:
// beyond are only the brightest low frequencies and what a large model leaves empty.
const heatmapSignals = [ // low and high are decades of power
  { key: "predicted_power", name: "predicted", low: -3, high: 1, note: "Power of the image that each step predicts" },
  { key: "velocity_power", name: "velocity", low: -1, high: 1, note: "Power of each step’s velocity" },
  { key: "noisy_power", name: "noisy", low: -3, high: 1, note: "Power of the state that each step reached" },
  { key: "guidance_power", name: "guidance", low: -3, high: 1, note: "Power of what guidance added to the class’s velocity; none where it is off" },
];

function mountHeatmap(root, onChoose) {
  "use strict";
  const { svg, line, colour } = DecoLab;
  const W = 400, H = 246, left = 34, right = 332, top = 8, bottom = 190;
  const SCALE = 2; // canvas pixels for a unit of the viewBox
  const holder = root.querySelector('[data-plot="heatmap"]'), note = root.querySelector('[data-note="heatmap"]');
  holder.classList.add("dl-heatmap");
  const canvas = document.createElement("canvas");
  canvas.width = (right - left) * SCALE;
  canvas.height = (bottom - top) * SCALE;
  const context = canvas.getContext("2d");
  holder.appendChild(canvas); // under the axes, which let the pointer through
  const percent = (part, whole) => `${(100 * part) / whole}%`;
  Object.assign(canvas.style, { left: percent(left, W), top: percent(top, H),
    width: percent(right - left, W), height: percent(bottom - top, H) });
  const plot = svg(holder, "svg", { viewBox: `0 0 ${W} ${H}`, role: "img",
    "aria-label": "Power by radial frequency over t; click to go to a step" });
  const X = (t) => left + t * (right - left), Y = (f) => bottom - (f / 0.5) * (bottom - top);
  for (const [f, text] of [[0, "0"], [1 / 8, "1/8"], [1 / 4, "1/4"], [3 / 8, "3/8"], [1 / 2, "1/2"]]) {
    line(plot, "dl-axis", left - 3, Y(f), left, Y(f));
    svg(plot, "text", { x: left - 6, y: Y(f) + 3.5, "text-anchor": "end" }, text);
  }
  for (const t of [0, 0.25, 0.5, 0.75, 1]) {
    line(plot, "dl-axis", X(t), bottom, X(t), bottom + 3);
    svg(plot, "text", { x: X(t), y: bottom + 16, "text-anchor": "middle" }, t);
  }
  svg(plot, "text", { x: left, y: bottom + 34 }, "up: cycles/pixel");
  svg(plot, "text", { x: right, y: bottom + 34, "text-anchor": "end" }, "t, from noise to image");
  for (let i = 0; i < 40; i++)
    svg(plot, "rect", { x: 341, width: 10, y: bottom - ((i + 1) / 40) * (bottom - top),
      height: (bottom - top) / 40 + 0.5, fill: `rgb(${colour((i + 0.5) / 40)})` });
  svg(plot, "text", { x: 398, y: bottom + 16, "text-anchor": "end" }, "power");
  const scale = svg(plot, "g", {}), patchLines = svg(plot, "g", {});
  svg(plot, "rect", { class: "dl-frame", x: left, y: top, width: right - left, height: bottom - top });
  const cursor = line(plot, "dl-heat-cursor", left, top, left, bottom);
  cursor.style.visibility = "hidden";

  let signal = heatmapSignals[0], frames = [], frequency = [];
  const share = (decades) => (decades - signal.low) / (signal.high - signal.low);
  function drawScale() {
    scale.replaceChildren();
    for (let d = signal.low; d <= signal.high; d++)
      svg(scale, "text", { x: 355, y: bottom - share(d) * (bottom - top) + 3.5 },
        (d === signal.low ? "≤ " : d === signal.high ? "≥ " : "") + 10 ** d);
  }
  // Ticks at m / P, where a grid of P x P patches has its lines.
  function drawPatchLines(size) {
    patchLines.replaceChildren();
    for (let m = 1; m <= size / 2; m++)
      line(patchLines, "dl-axis", right, Y(m / size), right + 5, Y(m / size));
    svg(patchLines, "text", { x: right, y: bottom + 52, "text-anchor": "end" }, `ticks at the right: lines m/${size} of a patch grid`);
  }
  const describe = () => {
    note.textContent = `${signal.note}. A click goes to that step; point for values.`;
  };
  function column(frame) {
    const power = frame.curves[signal.key];
    if (!power || frame.t_start === null) return;
    const from = Math.round(frame.t_start * canvas.width), to = Math.round(frame.t * canvas.width);
    const height = canvas.height / power.length;
    power.forEach((value, ring) => {
      context.fillStyle = `rgb(${colour(value > 0 ? share(Math.log10(value)) : 0)})`;
      const y = Math.round(canvas.height - (ring + 1) * height);
      context.fillRect(from, y, Math.max(1, to - from), Math.round(canvas.height - ring * height) - y);
    });
  }
  function choose(next) {
    signal = next;
    root.querySelectorAll("[data-signal]").forEach((b) => b.setAttribute("aria-pressed", b.dataset.signal === signal.key));
    context.clearRect(0, 0, canvas.width, canvas.height);
    frames.forEach(column);
    drawScale();
    describe();
  }
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return { t: Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)), up: 1 - (event.clientY - box.top) / box.height };
  };
  canvas.addEventListener("click", (event) => onChoose(place(event).t));
  canvas.addEventListener("pointermove", (event) => {
    const { t, up } = place(event);
    const frame = frames.find((one) => one.t_start !== null && one.t_start <= t && t <= one.t);
    const power = frame && frame.curves[signal.key];
    if (!power) return describe();
    const ring = Math.min(power.length - 1, Math.max(0, Math.floor(up * power.length)));
    note.textContent = `Step ${frame.index}, from t = ${frame.t_start.toFixed(3)}, ${frequency[ring].toFixed(3)} cycles/pixel: ` +
      `power ${power[ring] === null ? "–" : power[ring].toExponential(2)}.`;
  });
  canvas.addEventListener("pointerleave", describe);
  root.querySelectorAll("[data-signal]").forEach((button) => button.addEventListener("click", () =>
    choose(heatmapSignals.find((one) => one.key === button.dataset.signal))));
  drawScale();
  describe();
  return {
    clear(begin) {
      frames = [];
      root.querySelector('[data-signal="guidance_power"]').hidden = begin.guided_from === null;
      if (begin.guided_from === null && signal.key === "guidance_power") choose(heatmapSignals[0]);
      frequency = begin.frequency;
      drawPatchLines(begin.patch_size);
      context.clearRect(0, 0, canvas.width, canvas.height);
    },
    add(frame) {
      // Without its pictures, which may be given up: the curves stay for the whole run.
      const { index, t, t_start, curves } = frame;
      frames.push({ index, t, t_start, curves });
      column(frame);
    },
    paint(frame) {
      cursor.style.visibility = frame.t_start === null ? "hidden" : "visible";
      if (frame.t_start !== null) for (const end of ["x1", "x2"]) cursor.setAttribute(end, X((frame.t_start + frame.t) / 2));
    },
  };
}
