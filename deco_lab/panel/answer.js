// The answer on the first screen: what condition and pixels draw of the first image, as pictures that
// sum, as a bar for each band, and as strips over t, on which a click or a drag goes to a step.
//
//   const answer = mountAnswer(element, bands, (t) => ...);     // bands: names of the octaves
//   answer.clear(begin);  answer.add(frame);  answer.paint(frame);  answer.settle(times);
//
// A strip stacks the shares above 0; what lies below is left out of it, and numbers say all.
function mountAnswer(root, bands, onChoose) {
  "use strict";
  const { svg, line, percent, legend, drawPictures } = DecoLab;
  const STACK = ["baseline", "condition", "interaction", "pixels"]; // from the left, and from below
  const PARTS = ["baseline", "condition", "pixels", "interaction"]; // as the shares come
  const PICTURES = [
    ["first-noisy", "Noisy image", "Noisy image, the first"],
    ["of-condition", "By the condition", "What the condition draws of the first image with the pixels of other pictures"],
    ["of-pixels", "+ by its own pixels", "What the image’s own pixels add, doubled, grey is zero"],
    ["whole", "= predicted image", "First predicted image, before guidance"],
  ];
  const W = 400, H = 40;
  const figure = ([key, title, label]) => `<figure class="dl-${key}"><h2>${title}</h2>
    <canvas class="dl-picture" data-canvas="${key}" width="64" height="64" role="img" aria-label="${label}"></canvas></figure>`;
  root.innerHTML = `
    <p class="dl-sentence" data-note="says"></p>
    <div class="dl-equation">${PICTURES.map(figure).join("")}
      <figure class="dl-every"><h2>All images</h2>
        <canvas class="dl-picture" data-canvas="predicted" width="64" height="64" role="img" aria-label="Predicted images"></canvas></figure></div>
    <div class="dl-rows" data-figure>
      <div class="dl-head"><h2><b data-word="rows">Who draws each band</b> <span>cycles/pixel</span></h2>${DecoLab.svgButton("bands")}</div><div class="dl-legend">${
        legend(STACK.map((name) => ({ name, look: `dl-area dl-${name}` })))}</div>
      ${bands.map((name, k) => `<canvas class="dl-picture" data-band="${k}" width="64" height="64" role="img" aria-label="The predicted image ${name} cycles per pixel"></canvas>
        <p><b>${k ? (k === bands.length - 1 ? "fine" : "") : "coarse"}</b> ${name}</p>
        <p class="dl-stack"><span>${STACK.map((part) => `<i class="dl-${part}"></i>`).join("")}</span><b data-share="${k}">–</b></p>
        <div class="dl-strip" data-strip="${k}"></div>`).join("")}
      <p class="dl-note"></p><div class="dl-times"><span>t = 0, noise</span><span>0.5</span><span>1, image</span></div>
    </div>`;
  const find = (selector) => root.querySelector(selector);
  const canvases = Object.fromEntries([...root.querySelectorAll("[data-canvas]")].map((node) => [node.dataset.canvas, node]));
  const one = (pictures, i) => {
    const size = pictures.height * pictures.width * 3;
    return { ...pictures, count: 1, bytes: pictures.bytes.subarray(i * size, (i + 1) * size) };
  };

  const strips = bands.map((name, k) => {
    const holder = find(`[data-strip="${k}"]`);
    const plot = svg(holder, "svg", { viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", role: "img",
      "aria-label": `Shares of the band ${name} over t` });
    const areas = STACK.map((part) => svg(plot, "path", { class: `dl-${part}` }));
    const front = line(plot, "dl-front", 0, 0, 0, H), begins = line(plot, "dl-begins", 0, 0, 0, H);
    const cursor = line(plot, "dl-now", 0, 0, 0, H);
    const settled = document.createElement("i");
    settled.className = "dl-settled";
    settled.hidden = true;
    holder.appendChild(settled);
    holder.addEventListener("pointerdown", (event) => holder.setPointerCapture(event.pointerId));
    for (const kind of ["pointerdown", "pointermove"])
      holder.addEventListener(kind, (event) => {
        if (!event.buttons) return;
        const box = holder.getBoundingClientRect();
        onChoose(Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)));
      });
    return { areas, front, begins, cursor, settled };
  });
  const place = (node, t) => {
    node.style.visibility = t === null ? "hidden" : "visible";
    if (t !== null) for (const end of ["x1", "x2"]) node.setAttribute(end, t * W);
  };

  // The parts of a band that are above 0, stacked to at most 1; null where there are no shares.
  function stacked(shares, k) {
    const values = STACK.map((part) => shares[PARTS.indexOf(part)][k + 1]); // the first band is the mean
    if (values.some((value) => value === null)) return null;
    const above = values.map((value) => Math.max(0, value));
    const whole = Math.max(1, above.reduce((sum, value) => sum + value, 0));
    return above.map((value) => value / whole);
  }

  let begin = null, started = null, paths, fronts, frequency, power, finest;
  // Where a band of the predicted image has as much power as the noise: t^2 S = (1 - t)^2.
  function frontOf(k) {
    const edges = [0, 1 / 16, 1 / 8, 1 / 4, Infinity];
    let sum = 0, weight = 0;
    frequency.forEach((f, i) => {
      if (i && f >= edges[k] && f < edges[k + 1]) { // rings hold as many waves as they are long
        sum += f * power[i];
        weight += f;
      }
    });
    return weight && sum > 0 ? 1 / (1 + Math.sqrt(sum / weight)) : null;
  }
  function clear(next) {
    begin = next;
    frequency = begin.frequency;
    paths = bands.map(() => STACK.map(() => ""));
    power = null;
    settle(null);
    started = null;
    finest = []; // condition and pixels of the finest band, by step
    root.classList.toggle("dl-undivided", !begin.has_decoder || !begin.decompose);
    const divided = begin.has_decoder && begin.decompose;
    find('[data-word="rows"]').textContent = divided ? "Who draws each band" : "The predicted image by band";
    find(".dl-every").hidden = begin.num_images === 1 && !begin.changed.includes("mask"); // what stays shows there only
    find(".dl-rows .dl-note").textContent = !begin.has_decoder
      ? "This model has no pixel decoder: there is nothing to divide."
      : begin.decompose
        ? `Dotted: the picture outweighs its noise.${begin.guided_from === null ? "" : " Dashed: guidance begins."} ▲ 90% settled. Gaps: parts cancel.`
        : "Steps are not taken apart; turn it on under “More”.";
  }
  function add(frame) {
    if (frame.curves.predicted_power) power = frame.curves.predicted_power;
    const shares = frame.curves.predicted_shares;
    if (!shares) return;
    started ??= frame.t_start;
    bands.forEach((_, k) => {
      let low = 0;
      const from = (frame.t_start * W).toFixed(1), width = ((frame.t - frame.t_start) * W + 0.4).toFixed(1);
      stacked(shares, k)?.forEach((share, i) => {
        if (share > 0) paths[k][i] += `M${from} ${((1 - low - share) * H).toFixed(2)}h${width}v${(share * H).toFixed(2)}h-${width}z`;
        low += share;
      });
    });
    const [, condition, pixels] = shares.map((part) => part.at(-1));
    if (condition !== null) finest.push({ t: frame.t_start, byPixels: pixels > condition });
  }
  // Where each band, after the mean, is settled: known once the run has ended.
  function settle(times) {
    strips.forEach(({ settled }, k) => {
      const t = times ? times[k + 1] : null;
      settled.hidden = t === null;
      if (t === null) return;
      settled.style.left = `${100 * t}%`;
      settled.title = `90% settled ${t <= started ? "already " : ""}at t = ${t.toFixed(2)}: from there on the band’s correlation with the last prediction stays above 0.9`;
      settled.dataset.t = t;
    });
  }
  // The time from which the pixels draw more of the finest band than the condition, to the end.
  function swapped() {
    const last = finest.findLastIndex(({ byPixels }) => !byPixels);
    return last < 0 || last === finest.length - 1 ? null : finest[last + 1].t;
  }
  function says(frame) {
    if (!frame.says) return "";
    const front = fronts.at(-1), swap = swapped(), also = [];
    if (swap !== null) also.push(`they swap near t = ${swap.toFixed(2)}`);
    if (front !== null) also.push(`the picture outweighs its noise there from t = ${front.toFixed(2)} on`);
    const more = also.join("; ");
    return more ? `${frame.says} ${more[0].toUpperCase()}${more.slice(1)}.` : frame.says;
  }
  // The noisy image is that of the frame before, where the step started.
  function paint(frame, before) {
    fronts = bands.map((_, k) => (power ? frontOf(k) : null));
    find('[data-note="says"]').textContent = says(frame);
    drawPictures(canvases["first-noisy"], one((before || frame).noisy, 0));
    const { drawn, predicted } = frame;
    drawPictures(canvases.whole, drawn ? one(drawn, 0) : predicted && one(predicted, 0));
    drawPictures(canvases["of-condition"], drawn && one(drawn, 1));
    drawPictures(canvases["of-pixels"], drawn && one(drawn, 2));
    drawPictures(canvases.predicted, predicted, frame.noisy);
    const shares = frame.curves.predicted_shares;
    bands.forEach((_, k) => {
      drawPictures(find(`[data-band="${k}"]`), frame.bands && one(frame.bands, k));
      const parts = shares && stacked(shares, k);
      find(`[data-share="${k}"]`).textContent = shares ? percent(shares[1][k + 1]) : "–";
      root.querySelectorAll(".dl-stack")[k].querySelectorAll("i").forEach((bar, i) => {
        bar.style.width = `${parts ? 100 * parts[i] : 0}%`;
      });
      const strip = strips[k];
      strip.areas.forEach((area, i) => area.setAttribute("d", paths[k][i]));
      place(strip.front, shares ? fronts[k] : null);
      place(strip.begins, begin.guided_from);
      place(strip.cursor, frame.t_start);
    });
  }
  return { clear, add, paint, settle };
}
