// Runs that are pinned beside the one that is shown, all images of each, where they are nearest in t:
// side by side, by wipe, or as a difference; and by how much their energies differ in each band.
//
//   const compare = mountCompare(element, bands, named, onUnpin);      // named(run, other) says what a run is
//   compare.paint(mode, pinned, run, frame);                           // mode: "side", "wipe" or "difference"
function mountCompare(root, bands, named, onUnpin) {
  "use strict";
  const { number, drawPictures, escape } = DecoLab;
  const MOST = 3, LIMIT = 6; // decibels at the end of a bar
  const canvas = (i) => (i < MOST ? `pinned-${i}` : "beside");
  root.innerHTML = `
    <p class="dl-sentence" data-note="compared" aria-live="off"></p>
    <div class="dl-beside">${Array.from({ length: MOST + 1 }, (_, i) => `<figure ${i < MOST ? `data-pinned="${i}"` : ""}>
      <div class="dl-head"><h2></h2>${i < MOST ? '<button type="button" class="dl-svg">Unpin</button>' : ""}</div>
      <div class="dl-sheet"><canvas class="dl-picture" data-canvas="${canvas(i)}" width="64" height="64" role="img" aria-label="Predicted images"></canvas>
        <canvas class="dl-wiped" data-canvas="wiped-${i}" width="64" height="64" role="img" hidden></canvas></div></figure>`).join("")}</div>
    <label class="dl-wiper"><span>Pinned</span><input type="range" min="0" max="100" value="50" aria-label="Wipe: how much of the picture is the pinned run’s"><span>shown</span></label>
    <table class="dl-changes"><thead><tr><th scope="col">Energy over pinned, dB</th>${bands.map((name) => `<th scope="col">${name}</th>`).join("")}</tr></thead><tbody></tbody></table>
    <p class="dl-note" data-note="pinned"></p>`;
  const find = (selector) => root.querySelector(selector);
  const figures = [...root.querySelectorAll("figure")], wiper = find("input"), body = find("tbody");
  const nearest = (frames, t) =>
    frames.reduce((best, frame) => (!best || Math.abs(frame.t - t) < Math.abs(best.t - t) ? frame : best), null);
  const picturesOf = (frame) => frame.predicted || frame.noisy;
  const areOfOneSize = (a, b) => a.height === b.height && a.width === b.width;
  let last = null, compared = [];

  // 8-bit pictures, the first of each as many as both have.
  function difference(now, before) {
    const count = Math.min(now.count, before.count), bytes = new Uint8ClampedArray(count * now.height * now.width * 3);
    for (let i = 0; i < bytes.length; i++) bytes[i] = 127.5 + 2 * (now.bytes[i] - before.bytes[i]);
    return { ...now, count, bytes };
  }
  // Each image from its left edge on is that of before.
  function wiped(now, before, share) {
    const { width } = now, count = Math.min(now.count, before.count), cut = 3 * Math.round(share * width);
    const bytes = now.bytes.slice(0, 3 * count * now.height * width);
    for (let from = 0; from < bytes.length; from += 3 * width) bytes.set(before.bytes.subarray(from, from + cut), from);
    return { ...now, count, bytes };
  }
  // 10 log10 of energies over those before, in each band; null where there are none.
  const decibels = (now, before) =>
    bands.map((_, k) => (now && before && now[k] > 0 && before[k] > 0 ? 10 * Math.log10(now[k] / before[k]) : null));
  const signed = (value) => (value === null ? "–" : (value >= 0.05 ? "+" : "") + number(value, 1));

  function cell(value) {
    const share = Math.min(1, Math.abs(value ?? 0) / LIMIT) * 50;
    const side = value < 0 ? `right: 50%` : `left: 50%`;
    return `<td><span class="dl-change"><i class="${value < 0 ? "dl-below" : "dl-above"}" style="${side}; width: ${share}%"></i></span><b>${signed(value)}</b></td>`;
  }
  function put(figure, mode, title, pictures, run) {
    const [sheet, wipe] = figure.querySelectorAll("canvas"), isWipe = mode === "wipe", node = isWipe ? wipe : sheet;
    figure.hidden = false;
    figure.run = run;
    figure.querySelector("h2").textContent = title;
    sheet.hidden = isWipe;
    wipe.hidden = !isWipe;
    const label = isWipe ? `${title}; drag to move the edge` : title;
    if (node.title !== title) node.title = title;
    node.setAttribute("aria-label", !isWipe && node.tabIndex === 0 ? `Enlarge: ${label}` : label);
    drawPictures(node, pictures);
    node.style.setProperty("--ratio", node.width / node.height);
  }
  function says(change, run, other, t) {
    const known = change.map((value, k) => ({ value, k })).filter(({ value }) => value !== null);
    if (!known.length) return "There is no prediction yet whose bands could be compared.";
    const { value, k } = known.reduce((most, one) => (Math.abs(one.value) > Math.abs(most.value) ? one : most));
    const [ours, theirs] = [named(run, other), named(other, run)], at = `At t = ${t.toFixed(2)} the run that is shown`;
    const who = `(${ours}) has`, than = `the pinned one (${theirs})`;
    if (Math.abs(value) < 0.05) return `${at} ${who} the energy of ${than} in every band.`;
    return `${at} ${who} ${number(Math.abs(value), 1)} dB ${value > 0 ? "more" : "less"} energy ${k ? bands[k].replace(/^(\d)/, "from $1") : bands[k]} cycles a pixel than ${than}.`;
  }
  function paint(mode, pinned, run, now) {
    last = [mode, pinned, run, now];
    const pictures = picturesOf(now), notes = new Set();
    compared = pinned.map((other) => ({ other, before: nearest(other.frames.filter(Boolean), now.t) }));
    figures.forEach((figure) => (figure.hidden = true));
    compared.forEach(({ other, before }, i) => {
      const theirs = picturesOf(before), name = named(other, run);
      const fits = areOfOneSize(pictures, theirs), [few, many] = [pictures.count, theirs.count].sort((a, b) => a - b);
      if (!fits)
        notes.add(`${name}: its pictures have ${theirs.height} × ${theirs.width} points here and those shown ${pictures.height} × ${pictures.width}, so there is neither wipe nor difference; bands are compared in cycles a pixel.`);
      if (few < many)
        notes.add(mode !== "side" && fits ? `The first ${few} of ${many} images are compared; energies are means over all of each run.` : `One run has ${few} ${few > 1 ? "images" : "image"}, another ${many}: energies are means over all of each.`);
      if (Math.abs(before.t - now.t) > 0.02) notes.add(`${name} is shown at t = ${before.t.toFixed(2)}, the nearest that is kept of it.`);
      const drawn = mode === "side" || !fits ? theirs : mode === "wipe" ? wiped(pictures, theirs, wiper.value / 100) : difference(pictures, theirs);
      const ours = named(run, other);
      const title = mode === "side" || !fits ? `Pinned: ${name}` : mode === "wipe" ? `${name} | ${ours}` : `${ours} − ${name}`;
      put(figures[i], fits ? mode : "side", title, drawn, other);
    });
    if (mode !== "wipe" || compared.every(({ before }) => !areOfOneSize(picturesOf(before), pictures)))
      put(figures[MOST], "side", `Shown: ${named(run, pinned.at(-1))}`, pictures, run);
    if (mode === "difference") notes.add("New − pinned of the 8-bit predicted images, doubled; grey is none.");
    find(".dl-beside").dataset.count = figures.filter((figure) => !figure.hidden).length;
    find(".dl-wiper").hidden = mode !== "wipe";
    wipeLines();
    const changes = compared.map(({ before }) => decibels(now.curves.predicted_bands, before.curves.predicted_bands));
    body.innerHTML = compared.map(({ other }, i) => `<tr><th scope="row">${escape(named(other, run))}</th>${changes[i].map(cell).join("")}</tr>`).join("");
    const { other } = compared.at(-1);
    find('[data-note="compared"]').textContent = says(changes.at(-1), run, other, now.t);
    find('[data-note="pinned"]').textContent = ["Predicted images of all runs at the same t.", ...notes].join(" ");
  }

  // ---- the wipe: by slider, and by dragging on a picture -------------------------------------------
  // A line where each image changes over.
  function wipeLines() {
    for (const figure of figures) {
      const node = figure.querySelector(".dl-wiped"), sheet = node.parentElement;
      sheet.querySelectorAll("i").forEach((line) => line.remove());
      if (node.hidden || figure.hidden) continue;
      const pictures = picturesOf(last[3]), count = Math.min(pictures.count, picturesOf(compared[figure.dataset.pinned].before).count);
      const columns = Math.ceil(Math.sqrt(count)), pitch = columns > 1 ? (node.width - pictures.width) / (columns - 1) : 0;
      for (let column = 0; column < columns; column++) {
        const line = document.createElement("i");
        line.style.left = `${(100 * (column * pitch + Math.round((wiper.value / 100) * pictures.width))) / node.width}%`;
        sheet.append(line);
      }
    }
  }
  wiper.addEventListener("input", () => last && paint(...last));
  for (const figure of figures) {
    const node = figure.querySelector(".dl-wiped");
    const drag = (event) => {
      if (!event.buttons) return;
      const box = node.getBoundingClientRect(), { width } = picturesOf(last[3]);
      const x = ((event.clientX - box.left) / box.width) * node.width, gap = Math.max(2, Math.round(width / 32));
      const inside = node.width > width ? x - (width + gap) * Math.floor(x / (width + gap)) : x; // of the image under the pointer
      wiper.value = Math.min(100, Math.max(0, (100 * inside) / width));
      paint(...last);
    };
    node.addEventListener("pointerdown", (event) => {
      node.setPointerCapture(event.pointerId);
      drag(event);
    });
    node.addEventListener("pointermove", drag);
    figure.querySelector("button")?.addEventListener("click", () => onUnpin(figure.run));
  }
  return { paint };
}
