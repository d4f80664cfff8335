// The Decompose tab's second panel: the blocks of the DiT, a row each, of deco_lab.workbench.layers.LayersView.
//
//   show({status, text, view})     view may be absent or null, the one before then stays
//   show({status, text, read})     {name, t, of, r2}: what can be read after each block, by deco_lab.page.layers
//
// Rows are made once for a number of blocks and filled from then on, so that nothing moves. What was read is
// kept here by model and t, and is shown again with a view of both. The form's marks of what is wrong are the
// other panel's: this one only says its own sentence.
function mountLayers(root) {
  "use strict";
  const { number, percent, legend, unpackPictures, drawPictures, save, csvOf } = DecoLab;
  const LIMIT = 30; // decibels at the end of a bar
  const COLUMNS = [
    ["block", "Block", ""], ["map", "Token map", "share of variance shown"], ["grain", "How fine tokens vary", "by cycles/patch; tick: no order"],
    ["adds", "Adds", "times its input"], ["decoded", "Decoded from here", ""], ["energy", "Energy of that picture", "dB over the prediction"],
    ["read", "Readable of the true image", "R², line: 95% interval"],
  ];
  root.classList.add("dl", "dl-layers");
  Object.assign(root.dataset, { status: "idle", shown: 0, read: 0 });
  root.innerHTML = `
    <div class="dl-head"><h2>Look inside, block by block</h2>
      <button type="button" class="dl-button" data-do="read" disabled>Measure what can be read</button>
      <button type="button" class="dl-button" data-do="csv" disabled>Numbers (CSV)</button></div>
    <p class="dl-says" role="status"></p>
    <p class="dl-sentence" data-note="says"></p>
    <div class="dl-legend" hidden></div>
    <table role="table" aria-label="Blocks of the DiT" hidden><thead role="rowgroup"><tr role="row">${COLUMNS.map(([key, name, unit]) =>
      `<th role="columnheader" scope="col" class="dl-of-${key}">${name}${unit ? `<span>${unit}</span>` : ""}</th>`).join("")}</tr></thead><tbody role="rowgroup"></tbody></table>
    <p class="dl-note" data-note="made"></p>
    <p class="dl-note" data-note="read"></p>
    <details class="dl-help"><summary>What the columns are</summary><dl>
      <dt>Token map</dt><dd>A pixel for each patch: the first three principal components of the tokens after the block, less their mean over the
        patches, as red, green and blue; grey is 0. One basis serves all blocks, so a colour means the same down the list; each component has its own scale.
        Below it, how much of the tokens’ variance the three hold.</dd>
      <dt>How fine tokens vary</dt><dd>Share of that variance by waves over the patches, coarse to fine; the tick is where tokens without any order would be.</dd>
      <dt>Adds</dt><dd>Norm of what the block adds to its tokens, over the norm of those that it is given.</dd>
      <dt>Decoded from here</dt><dd>The predicted image if this were the last block: its tokens go to the pixel decoder, or to a single DiT’s last layer, past
        all blocks that follow (the “logit lens”). After the last block it is the model’s own prediction. Neither was trained on tokens of earlier blocks,
        so what they do not draw may still be there: that is what “readable” says.</dd>
      <dt>Energy of that picture</dt><dd>In each octave, coarse to fine, over that of the prediction: 10 dB is ten times as much; bars end at ±${LIMIT} dB.</dd>
      <dt>Readable</dt><dd>R² of the true image from the tokens by a ridge regression, in each octave within a patch: 1 is all, 0 nothing. It is fitted on crops of
        the bundled photographs (or on fields) at the same t, each photograph judged by fits on others; of the picture that is shown it knows nothing.
        The line across a bar’s end is its 95% interval over photographs.</dd>
    </dl></details>`;
  const find = (selector) => root.querySelector(selector);
  const table = find("table"), body = find("tbody"), readButton = find('[data-do="read"]'), csvButton = find('[data-do="csv"]');
  const measured = new Map(); // by model and t
  let view = null, isReading = false;

  const keyOf = ({ name, t }) => `${t} ${name}`;
  const signed = (value) => (value === null ? "–" : (value >= 0.05 ? "+" : "") + number(value, 1));
  const decibels = (ratio) => (ratio > 0 ? 10 * Math.log10(ratio) : null);
  const labels = { map: "Token map", decoded: "Picture decoded" };
  const picture = (key, block) => `<canvas class="dl-picture" width="8" height="8" role="img" aria-label="${labels[key]} after block ${block}"></canvas>`;
  const bars = (names, look, more = "") => `<ul>${names.map((name, k) =>
    `<li class="${look(k)}"><span class="dl-unseen">${name}: </span><b>–</b><span class="dl-track"><i></i>${more}</span></li>`).join("")}</ul>`;
  const cell = (key, content) => `<td role="cell" class="dl-of-${key}"><span class="dl-label" aria-hidden="true">${COLUMNS.find(([name]) => name === key)[1]}</span>${content}</td>`;
  const ofBand = (k) => `dl-band-${k}`;

  function lay(next) {
    find(".dl-legend").innerHTML = legend(next.bands.map((name, k) => ({ name, look: `dl-area ${ofBand(k)}` }))) + "<span>cycles/pixel</span>";
    body.innerHTML = next.blocks.map((_, i) => `<tr role="row"><th role="rowheader" scope="row" class="dl-of-block"><span class="dl-label">Block </span>${i + 1}</th>${
      cell("map", `${picture("map", i + 1)}<small></small>`)}${cell("grain", bars(next.grain_bands, () => "dl-velocity"))}${
      cell("adds", `<b></b><span class="dl-track"><i></i></span>`)}${cell("decoded", picture("decoded", i + 1))}${
      cell("energy", bars(next.bands, ofBand))}${cell("read", bars(next.bands, ofBand, "<u></u>"))}</tr>`).join("");
    for (const node of [table, find(".dl-legend")]) node.hidden = false;
  }
  // Draw a bar from `zero` to `end`, both from 0 to 1 along its track.
  function stretch(bar, zero, end) {
    const [low, high] = [zero, Math.max(0, Math.min(1, end))].sort((a, b) => a - b);
    bar.style.cssText = `left: ${100 * low}%; width: ${100 * (high - low)}%`;
  }
  function fill(of, values, say, zero, endOf) {
    of.querySelectorAll("li").forEach((item, k) => {
      const value = values ? values[k] : null;
      item.querySelector("b").textContent = say(value);
      stretch(item.querySelector("i"), zero, value === null ? zero : endOf(value));
    });
  }
  function paint() {
    const { settings, blocks } = view;
    const most = Math.max(...blocks.map(({ change }) => change ?? 0));
    [...body.rows].forEach((row, i) => {
      const block = blocks[i], of = (key) => row.querySelector(`td.dl-of-${key}`);
      for (const key of ["map", "decoded"]) drawPictures(of(key).querySelector("canvas"), unpackPictures(block[key]));
      of("map").querySelector("small").textContent = percent(block.explained);
      fill(of("grain"), block.grain, (value) => percent(value), 0, (value) => value);
      of("grain").querySelectorAll(".dl-track").forEach((track, k) => track.style.setProperty("--dl-tick", `${100 * view.white_grain[k]}%`));
      of("adds").querySelector("b").textContent = number(block.change);
      stretch(of("adds").querySelector("i"), 0, block.change / most);
      fill(of("energy"), block.energy.map(decibels), signed, 0.5, (value) => 0.5 + value / LIMIT / 2);
    });
    find('[data-note="says"]').textContent = view.says;
    find('[data-note="made"]').textContent =
      `${settings.name}, ${settings.class_name}, t = ${+settings.t.toFixed(4)}: ${blocks.length} blocks in one pass of the DiT, and ${view.heads} of what draws.`;
    root.dataset.shown = +root.dataset.shown + 1;
  }
  // What can be read, where it has been measured for this model at this t.
  function paintRead() {
    const read = measured.get(keyOf(view.settings));
    [...body.rows].forEach((row, i) => {
      const bands = read?.r2[i], of = row.querySelector("td.dl-of-read");
      fill(of, bands?.map(({ value }) => value), (value) => number(value), 0, (value) => value);
      of.querySelectorAll("li").forEach((item, k) => {
        const { low, high } = bands?.[k] || { low: null }, line = item.querySelector("u");
        item.title = low === null ? "" : `95% interval ${number(low)} to ${number(high)}`;
        line.hidden = low === null;
        if (low !== null) stretch(line, Math.max(0, low), high);
      });
    });
    find('[data-note="read"]').textContent = read
      ? `Readable: ridge regression on the tokens of ${read.of} at t = ${+read.t.toFixed(4)}, each judged by fits on others.`
      : "What can be read is not measured yet at this t; it takes some ten seconds.";
    readButton.disabled = isReading || Boolean(read);
  }
  readButton.addEventListener("click", () => {
    isReading = readButton.disabled = true;
    DecoLab.send("readability", String(view.settings.t));
  });
  csvButton.addEventListener("click", () => {
    const read = measured.get(keyOf(view.settings));
    save("deco-lab-blocks.csv", "text/csv", csvOf(read ? { ...view, read } : view));
  });
  // The button of the panel above.
  document.addEventListener("click", (event) => {
    if (!event.target.closest('[data-do="inside"]')) return;
    root.scrollIntoView({ block: "start" });
    find("h2").tabIndex = -1;
    find("h2").focus({ preventScroll: true });
  });

  return {
    show(data) {
      const { status, text, read } = data, isOver = ["done", "refused", "stopped"].includes(status);
      root.dataset.status = status;
      find(".dl-says").textContent = isReading && text === "Computing." ? "Measuring what can be read after each block." : text;
      if (data.view) {
        if (body.rows.length !== data.view.blocks.length) lay(data.view);
        view = data.view;
        paint();
        csvButton.disabled = false;
      }
      if (read) measured.set(keyOf(read), read);
      if (read || (isReading && isOver && !("view" in data))) isReading = false;
      if (view) paintRead();
      if (read) root.dataset.read = +root.dataset.read + 1;
    },
  };
}
