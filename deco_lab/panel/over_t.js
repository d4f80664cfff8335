// Shares of each band and what guidance changes, as lines over t, filled step by step.
//
//   const plots = mountOverT(root, {shareBands, bands});    // each: clear, add, paint a frame, pin
//
// They stand in the panel's .dl-bands and [data-plot=guidance].
function mountOverT(root, setup) {
  "use strict";
  const { svg, line, percent, legend } = DecoLab;
  const find = (selector) => root.querySelector(selector);
  const PARTS = [
    { name: "baseline", look: "dl-baseline" },
    { name: "condition", look: "dl-condition" },
    { name: "pixels", look: "dl-pixels" },
    { name: "interaction", look: "dl-interaction" },
  ];
  const BANDS = setup.bands.map((name, i) => ({ name, look: `dl-band-${i}` }));

  find("[data-legend=parts]").innerHTML = legend(PARTS);
  find("[data-legend=bands]").innerHTML = legend(BANDS);

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
  return [...bands, guidance];
}
